//go:build !linux

package model

import "syscall"

func narrow(_, _ string, _ syscall.RawConn) error { return nil }
