//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroupOf is the group of a lab, or of one of its hosts, relative to every
// hierarchy.
func cgroupOf(lab, host string) string { return filepath.Join("weft-lab", lab, host) }

// cgroupHierarchies lists the mounted hierarchies: one on cgroup v2, one per
// controller on v1.
func cgroupHierarchies() ([]string, error) {
	if _, err := os.Stat(cgroupMount + "/cgroup.controllers"); err == nil {
		return []string{cgroupMount}, nil
	}
	files, err := filepath.Glob(cgroupMount + "/*/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, f := range files {
		dir := filepath.Dir(f)
		if info, err := os.Lstat(dir); err == nil && info.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil, fmt.Errorf("lab: no cgroup hierarchy is mounted below %s", cgroupMount)
	}
	return dirs, nil
}

// makeCgroup creates a group in every hierarchy, ready to take processes.
func makeCgroup(group string) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, dir := range hierarchies {
		for part := range strings.SplitSeq(group, "/") {
			if err := passOnControllers(dir); err != nil {
				return err
			}
			parent := dir
			dir = filepath.Join(dir, part)
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			// A v1 cpuset takes no process before it owns processors and memory.
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inheritCpuset(parent, dir, f); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// passOnControllers enables on cgroup v2 every controller for the children of
// dir. A controller that cannot be passed on is left out.
func passOnControllers(dir string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // v1
	}
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(have)) {
		_ = os.WriteFile(control, []byte("+"+c), 0)
	}
	return nil
}

func inheritCpuset(parent, dir, file string) error {
	if _, err := os.Stat(filepath.Join(dir, "cgroup.subtree_control")); err == nil {
		return nil // v2 inherits by itself
	}
	value, err := os.ReadFile(filepath.Join(parent, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), value, 0)
}

// killCgroup kills every process below a group and waits until none is left.
func killCgroup(ctx context.Context, group string) error {
	return Until(ctx, "the processes of "+group+" to end", func(context.Context) error {
		pids, err := cgroupProcesses(group)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if len(pids) > 0 {
			return fmt.Errorf("%d processes left", len(pids))
		}
		return nil
	})
}

func cgroupProcesses(group string) ([]int, error) {
	var pids []int
	err := eachCgroup(group, func(dir string) error {
		data, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
			return nil
		}
		for f := range strings.FieldsSeq(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	return pids, err
}

// removeCgroup removes a group without processes and everything below it. A
// group stays busy for a moment after its last process is gone.
func removeCgroup(ctx context.Context, group string) error {
	return Until(ctx, "the removal of cgroup "+group, func(context.Context) error {
		return eachCgroup(group, func(dir string) error {
			if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
				return fmt.Errorf("remove %s: %w", dir, err)
			}
			return nil
		})
	})
}

// eachCgroup visits a group and all below it in every hierarchy, children
// first.
func eachCgroup(group string, visit func(dir string) error) error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(h, group), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := visit(dir); err != nil {
				return err
			}
		}
	}
	return nil
}
