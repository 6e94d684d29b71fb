package attack

import "syscall"

// limitDescriptors bounds how many descriptors this process may have.
func limitDescriptors(n uint64) error {
	return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n})
}
