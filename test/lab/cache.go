//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// buildLimit bounds what installs packages.
const buildLimit = 10 * time.Minute

// CacheDir is where roots, images and the disks of running hosts lie:
// $WEFT_LAB_CACHE or /var/cache/weft-lab. It must not be on an overlay.
//
//	roots/<release>-<recipe>/tree     the Debian root
//	roots/<release>-<recipe>/docker   the engine's graph with the test image
//	images/test-<recipe>.tar          the test image
//	plugins/<recipe>                  what an engine keeps of a plugin
//	debs/                             packages, shared by all builds
//	vm/<recipe>                       the kernel and modules of package vm
//	vm/<release>-<recipes>.ext4       its disk with a root and a graph from above
//	run/<lab>/<host>/                 the disk of a host
func CacheDir() string {
	if dir := os.Getenv("WEFT_LAB_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/weft-lab"
}

// RemoveCache removes roots and images. No lab may run.
func RemoveCache() error {
	all, err := records()
	if err != nil {
		return err
	}
	if len(all) > 0 {
		return fmt.Errorf("lab: %d labs are running", len(all))
	}
	return os.RemoveAll(CacheDir())
}

// Cached returns the path of something in the cache and builds it if it is
// not there. Of several processes one builds and the others wait; what is
// there is complete.
func Cached(ctx context.Context, name string, build func(ctx context.Context, tmp string) error) (string, error) {
	path := filepath.Join(CacheDir(), name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lockFile(ctx, filepath.Join(CacheDir(), "locks", filepath.Base(name)))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	// Under the lock, what lies at tmp is of a build that was killed.
	tmp := filepath.Join(CacheDir(), "build", filepath.Base(name))
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(tmp)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	ctx, cancel := bounded(ctx, buildLimit)
	defer cancel()
	if err := build(ctx, tmp); err != nil {
		return "", errors.Join(fmt.Errorf("lab: build %s: %w", name, err), os.RemoveAll(tmp))
	}
	return path, os.Rename(tmp, path)
}

// lockFile takes the lock of a file that only serves as one. The lock ends
// with unlock or with the process.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	ctx, cancel := bounded(ctx, buildLimit)
	defer cancel()
	err = Until(ctx, "the lock "+path, func(context.Context) error {
		return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// installTools installs the packages of the machine that the lab uses.
func installTools(ctx context.Context) error {
	if haveTools() {
		return nil
	}
	unlock, err := lockFile(ctx, stateDir+"/tools.lock")
	if err != nil {
		return err
	}
	defer unlock()
	if haveTools() {
		return nil
	}
	ctx, cancel := bounded(ctx, buildLimit)
	defer cancel()
	if _, err := machine(ctx, "apt-get", "update", "-q"); err != nil {
		return err
	}
	_, err = machine(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-q", "-y", "--no-install-recommends",
		"debootstrap", "iproute2", "iptables", "nftables", "util-linux", "tar", "ca-certificates")
	return err
}

func haveTools() bool {
	for _, tool := range []string{"bash", "debootstrap", "ip", "iptables", "nft", "nsenter", "unshare", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			return false
		}
	}
	return true
}
