//go:build linux

// Command init is the first process of the test machine: it loads the kernel's modules,
// runs the tests, writes what they say to the second serial line, and turns the machine
// off. See package vm.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-net/weft/internal/kernel/kerneltest"
	"github.com/weft-net/weft/test/vm"
)

// port is where the host reads the results.
const port = "/dev/ttyS1"

// suiteLimit is for how long the tests of a package may run, by the machine's clock.
const suiteLimit = "10m"

func main() {
	if os.Getpid() != 1 { // the first process has arguments as well, the kernel's
		fmt.Fprintln(os.Stderr, "init:", enter(os.Args[1:]))
		os.Exit(1)
	}
	if err := boot(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // returning is a panic of the kernel, which ends the machine too
}

func boot() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	out, err := os.OpenFile(port, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(load(), runAll(out)); err != nil {
		return err
	}
	_, err = out.WriteString(vm.Done())
	return errors.Join(err, unix.IoctlSetInt(int(out.Fd()), unix.TCSBRK, 1)) // until all is sent
}

// load loads the modules.
func load() error {
	paths, err := filepath.Glob(vm.ModulesDir + "/*")
	if err != nil {
		return err
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}

// enter runs a command in the root of a host with an engine. It is the root of the mount
// namespace, not of a process alone: what the engine starts leaves that.
func enter(args []string) error {
	const root = vm.EngineRoot
	for _, m := range []struct{ disk, at string }{{vm.EngineDisk, root}, {vm.PluginDisk, root + vm.PluginDir}} {
		if err := os.MkdirAll(m.at, 0o700); err != nil {
			return err
		}
		if err := unix.Mount(m.disk, m.at, "ext4", 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.disk, err)
		}
	}
	if err := os.Mkdir(root+vm.TestsDir, 0o755); err != nil {
		return err
	}
	for _, m := range []struct {
		kind, at string
		flags    uintptr
	}{{"devtmpfs", "/dev", 0}, {"proc", "/proc", 0}, {"sysfs", "/sys", 0}, {"cgroup2", "/sys/fs/cgroup", 0}, {"tmpfs", "/tmp", 0}, {"tmpfs", "/run", 0}, {vm.TestsDir, vm.TestsDir, unix.MS_BIND}} {
		if err := unix.Mount(m.kind, root+m.at, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	for _, step := range []func() error{
		func() error { return unix.Chdir(root) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
		func() error { return unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, "") }, // as systemd does
	} {
		if err := step(); err != nil {
			return fmt.Errorf("make %s the root: %w", root, err)
		}
	}
	return unix.Exec(args[0], args, os.Environ())
}

// runAll runs the suites one after the other.
func runAll(out *os.File) error {
	text, err := os.ReadFile(vm.SuitesFile)
	if err != nil {
		return err
	}
	var suites []vm.Suite
	if err := json.Unmarshal(text, &suites); err != nil {
		return fmt.Errorf("%s: %w", vm.SuitesFile, err)
	}
	for i, s := range suites {
		if _, err := out.WriteString(vm.Begin(i)); err != nil {
			return err
		}
		begin := time.Now()
		args := []string{vm.TestBinary(i), "-test.v", "-test.timeout=" + suiteLimit, "-test.run=^(" + strings.Join(s.Tests, "|") + ")$"}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = []string{"PATH=/bin:/sbin:/usr/bin:/usr/sbin", "TMPDIR=/tmp", kerneltest.StockKernel + "=1",
			"GOGC=400"} // of memory there is more than of time, also for the engine
		if s.HasEngine() {
			cmd.Path, cmd.Args = "/init", append([]string{"init"}, args...)
			cmd.Env = append(cmd.Env, vm.EngineVariable+"=here")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		}
		cmd.Stdout, cmd.Stderr = out, out
		status := 0
		if err := cmd.Run(); err != nil {
			status = cmd.ProcessState.ExitCode()
			fmt.Fprintln(out, err)
		}
		if _, err := out.WriteString(vm.End(i, status, time.Since(begin))); err != nil {
			return err
		}
	}
	return nil
}
