//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ReadFile reads a file of the host.
func (h *Host) ReadFile(ctx context.Context, path string) (string, error) {
	ctx, cancel := bounded(ctx, commandLimit)
	defer cancel()
	// Through a command, not through /proc/PID/root: an absolute link in the
	// path would lead to the machine's file there.
	cmd, err := h.Command(ctx, "cat", "--", path)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("lab: %s: read %s: %w", h.Name, path, err)
	}
	return string(out), nil
}

// WriteFile writes a file of the host and makes its directory.
func (h *Host) WriteFile(ctx context.Context, path, data string, mode os.FileMode) error {
	const script = `mkdir -p "${1%/*}/" && cat >"$1" && chmod "$2" "$1"`
	_, err := h.RunInput(ctx, strings.NewReader(data), "sh", "-c", script, "write", path, strconv.FormatUint(uint64(mode.Perm()), 8))
	return err
}

// CopyIn copies a file or a directory of the machine to the path dst in the
// host. What dst held before is replaced.
func (h *Host) CopyIn(ctx context.Context, src, dst string) error {
	src, err := filepath.Abs(src)
	if err != nil {
		return err
	}
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		f, err := os.Open(src)
		if err != nil {
			return err
		}
		defer f.Close()
		const script = `mkdir -p "${1%/*}/" && rm -f "$1" && cat >"$1" && chmod "$2" "$1"`
		_, err = h.RunInput(ctx, f, "sh", "-c", script, "copy", dst, strconv.FormatUint(uint64(info.Mode().Perm()), 8))
		return err
	}
	return h.copyDir(ctx, src, dst)
}

func (h *Host) copyDir(ctx context.Context, src, dst string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	packed := make(chan error, 1)
	go func() {
		defer w.Close()
		cmd := exec.CommandContext(ctx, "tar", "-C", src, "-cf", "-", ".")
		groupKill(cmd)
		cmd.Stdout = w
		var errs strings.Builder
		cmd.Stderr = &errs
		if err := cmd.Run(); err != nil {
			packed <- fmt.Errorf("lab: pack %s: %w\n%s", src, err, errs.String())
			return
		}
		packed <- nil
	}()
	const script = `rm -rf "$1" && mkdir -p "$1" && tar -xf - -C "$1"`
	_, err = h.RunInput(ctx, r, "sh", "-c", script, "unpack", dst)
	r.Close()
	if packErr := <-packed; packErr != nil && err == nil {
		return packErr
	}
	return err
}

// CloneTo makes the disk of another host a copy of this one's, as who copies a
// virtual machine does. Both are off, and of one engine. The copy keeps its name, its
// addresses and the MAC of its eth0.
func (h *Host) CloneTo(ctx context.Context, other *Host) error {
	if h.PID() != 0 || other.PID() != 0 {
		return fmt.Errorf("lab: copy %s to %s: power both off first", h.Name, other.Name)
	}
	if h.root != other.root {
		return fmt.Errorf("lab: copy %s to %s: their engines differ: %s and %s", h.Name, other.Name, h.root.Engine, other.root.Engine)
	}
	const script = `
		for d in upper docker containerd; do
			rm -rf "$1/$d"
			cp -a --reflink=auto "$0/$d" "$1/$d"
		done
		rm -rf "$1/work" && mkdir "$1/work"
		echo "$2" >"$1/upper/etc/hostname"`
	_, err := machine(ctx, "sh", "-ec", script, h.disk, other.disk, other.Name)
	return err
}
