// Package testmain is for tests that need a place of their own: a test program runs
// itself again in new namespaces.
//
//	func TestMain(m *testing.M) { os.Exit(testmain.InNetwork(m, nil)) }
//
// It is for tests only, needs root, and does not clean up after a program that was
// killed, but for what [SweepDead] finds.
package testmain

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// inside marks the process that is in the tests' own network namespace.
const inside = "WEFT_TEST_NAMESPACE"

// InNetwork runs the tests of a package in a network namespace of their own, with
// nothing but a loopback, and returns the exit code. prepare, if not nil, runs first
// and outside, where the machine's network is; args come before the program's own.
func InNetwork(m *testing.M, prepare func() error, args ...string) int {
	if Inside() {
		if out, err := exec.CommandContext(context.Background(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "loopback of the tests' namespace: %v: %s\n", err, out)
			return 1
		}
		return m.Run()
	}
	if prepare != nil {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return Again(inside, syscall.CLONE_NEWNET, append(append([]string{os.Args[0]}, args...), os.Args[1:]...)...)
}

// Inside says that this process is the one in the namespace.
func Inside() bool { return os.Getenv(inside) != "" }

// Again runs a command line, this program's or one that leads to it, in new
// namespaces (CLONE_NEW…) and returns its exit code. The variable mark is set there,
// by which the program knows that it is the second one.
func Again(mark string, namespaces uintptr, argv ...string) int {
	cmd := exec.CommandContext(context.Background(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "tests in a namespace (run them as root):", err)
		return 1
	}
	return 0
}

// SweepDead removes the directories that test programs left which were killed: their
// names are prefix, the program's process id and a dash.
func SweepDead(prefix string) {
	left, _ := filepath.Glob(prefix + "*") // the pattern is good
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(dir, prefix), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			_ = os.RemoveAll(dir) // the next program tries again
		}
	}
}
