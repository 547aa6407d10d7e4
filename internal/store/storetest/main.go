package storetest

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
const inside = "WEFT_STORETEST_NAMESPACE"

// Main runs the tests of a package in a network namespace of their own and
// returns the exit code. It fetches the servers first: inside there is no network.
func Main(m *testing.M) int {
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "storetest: %v: %s\n", err, out)
			return 1
		}
		return m.Run()
	}
	for _, version := range Versions() {
		if _, err := Binaries(context.Background(), version); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	sweep()
	// Tests wait for servers more than they compute.
	args := append([]string{"-test.parallel=6"}, os.Args[1:]...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "storetest: tests in a namespace:", err)
		return 1
	}
	return 0
}

// sweep removes the data of tests that were killed.
func sweep() {
	left, _ := filepath.Glob(dataDirs + "*") // the pattern is good
	for _, dir := range left {
		pid, _, _ := strings.Cut(strings.TrimPrefix(dir, dataDirs), "-")
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			_ = os.RemoveAll(dir) // the next one tries again
		}
	}
}
