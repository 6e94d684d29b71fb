//go:build !linux

package attack

import "errors"

// limitDescriptors is not asked for: the tests that need it are in a file for Linux.
func limitDescriptors(uint64) error { return errors.ErrUnsupported }
