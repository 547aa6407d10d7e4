package firewall

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNetNS is the network namespace of the calling thread, where /proc/net
// would be that of the process.
const threadNetNS = "/proc/thread-self/ns/net"

// A namespace is a network namespace to work in.
type namespace struct{ file *os.File }

// currentNamespace returns the namespace of the calling thread.
func currentNamespace() (namespace, error) {
	f, err := os.Open(threadNetNS)
	if err != nil {
		return namespace{}, fmt.Errorf("opening the network namespace: %w", err)
	}
	return namespace{f}, nil
}

func (ns namespace) fd() int { return int(ns.file.Fd()) }

func (ns namespace) close() error { return ns.file.Close() }

// do runs f on a thread that is in the namespace. What f starts inherits it.
func (ns namespace) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	same, err := ns.isCurrent()
	if err != nil {
		return err
	}
	if same {
		return f()
	}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(ns.fd(), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (ns namespace) isCurrent() (bool, error) {
	var own, target unix.Stat_t
	if err := unix.Stat(threadNetNS, &own); err != nil {
		return false, fmt.Errorf("looking at the network namespace: %w", err)
	}
	if err := unix.Fstat(ns.fd(), &target); err != nil {
		return false, fmt.Errorf("looking at the network namespace: %w", err)
	}
	return own.Dev == target.Dev && own.Ino == target.Ino, nil
}
