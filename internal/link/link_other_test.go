//go:build !linux

package link

const knowsProgress = false
