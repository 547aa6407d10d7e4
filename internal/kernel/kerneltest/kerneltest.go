// Package kerneltest has namespaces of the real kernel for tests: one for the test itself,
// as the host, and others as machines and sandboxes.
//
//	k := kerneltest.Host(t)
//	kerneltest.Needs(t, "vlan")
//	ns := kerneltest.Namespace(t)
//	kerneltest.Run(t, ns, "ip", "addr")
//
// It makes nothing that outlives the test.
package kerneltest

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel"
)

// Host runs the rest of the test on a thread in a namespace of its own, which ends with
// the thread, and opens its kernel.
func Host(tb testing.TB) *kernel.Host {
	tb.Helper()
	runtime.LockOSThread() // never unlocked: the thread dies with the test's goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		tb.Fatalf("unshare: %v (the tests run as root)", err)
	}
	h, err := kernel.Open(kernel.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := h.Close(); err != nil {
			tb.Error(err)
		}
	})
	return h
}

// Namespace is a [Sandbox] whose loopback device is up.
func Namespace(tb testing.TB) string {
	tb.Helper()
	path := Sandbox(tb)
	Run(tb, path, "ip", "link", "set", "lo", "up")
	return path
}

// Sandbox makes one more namespace and mounts it at a path, as the engine does.
func Sandbox(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return path
}

// Try runs a command in a namespace, or in the test's own if ns is empty. What it complained
// of is returned if it failed: ip complains of devices whose peer's namespace is just going,
// and succeeds.
func Try(ns string, args ...string) (out string, err error) {
	var complaints strings.Builder
	err = Within(ns, func() error {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stderr = &complaints
		text, err := cmd.Output()
		out = string(text)
		return err
	})
	if err != nil {
		out += complaints.String()
	}
	return out, err
}

// Within runs fn on a thread in a namespace, a path, where its children are born, or here if
// ns is empty.
func Within(ns string, fn func() error) error {
	if ns == "" {
		return fn()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends in that namespace
		done <- func() error {
			f, err := os.Open(ns)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return fn()
		}()
	}()
	return <-done
}

// Run is Try where a failure ends the test.
func Run(tb testing.TB, ns string, args ...string) string {
	tb.Helper()
	out, err := Try(ns, args...)
	if err != nil {
		tb.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// Answers reports whether an address answers an echo request from a namespace. It waits
// for that long.
func Answers(tb testing.TB, ns, address string, wait time.Duration) bool {
	tb.Helper()
	to, err := netip.ParseAddr(address)
	if err != nil {
		tb.Fatal(err)
	}
	answers := false
	err = Within(ns, func() error {
		k, err := kernel.Open(kernel.Config{})
		if err != nil {
			return err
		}
		answers, err = k.Answers(to, wait)
		return errors.Join(err, k.Close())
	})
	if err != nil {
		tb.Fatal(err)
	}
	return answers
}

// StockKernel is the environment variable that says that the kernel is a stock one, with
// everything that [Needs] is asked for.
const StockKernel = "WEFT_TEST_VM"

// Needs skips the test on a kernel that lacks a kind of device; see [kernel.Probe]. Package
// test/vm runs all tests that call it on a stock kernel, where a lack is a failure.
func Needs(tb testing.TB, kinds ...string) {
	tb.Helper()
	needs(tb, kernel.Probe, os.Getenv(StockKernel) != "", kinds)
}

func needs(tb testing.TB, probe func(kind string) error, stock bool, kinds []string) {
	tb.Helper()
	for _, kind := range kinds {
		switch err := probe(kind); {
		case errors.Is(err, kernel.ErrNotSupported) && !stock:
			tb.Skipf("this kernel has no %s and no module for it; a stock kernel has: make test-vm", kind)
		case err != nil:
			tb.Fatal(err)
		}
	}
}
