package storetest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

const mirror = "http://deb.debian.org/debian"

// fetchLimit bounds a download of all packages.
const fetchLimit = 5 * time.Minute

// releases names the Debian release of each version.
func releases() map[string]string {
	return map[string]string{"3.4": "bookworm", "3.5": "trixie"}
}

// Versions lists the versions of etcd that Start takes, oldest first.
func Versions() []string { return []string{"3.4", "3.5"} }

// cacheDir is the lab's.
func cacheDir() string {
	if dir := os.Getenv("WEFT_LAB_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/weft-lab"
}

// Binaries returns the directory that has etcd and etcdctl of a version, and
// fetches them when they are not in the cache. Of several processes one fetches
// and the others wait.
func Binaries(ctx context.Context, version string) (string, error) {
	release, ok := releases()[version]
	if !ok {
		return "", fmt.Errorf("storetest: no etcd %s; there are %v", version, Versions())
	}
	dir := filepath.Join(cacheDir(), "etcd", release+"-"+runtime.GOARCH)
	bin := filepath.Join(dir, "usr/bin")
	if _, err := os.Stat(dir); err == nil {
		return bin, nil
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return bin, nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	if err := fetch(ctx, release, dir); err != nil {
		return "", fmt.Errorf("storetest: etcd %s from %s: %w", version, mirror, err)
	}
	return bin, nil
}

// lock waits for the lock of a file that only serves as one.
func lock(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// fetch unpacks the packages of a release into dir, which is complete once it is
// there.
func fetch(ctx context.Context, release, dir string) error {
	found, err := lookUp(ctx, release, "etcd-server", "etcd-client")
	if err != nil {
		return err
	}
	tmp := dir + ".tmp"
	debs := filepath.Join(cacheDir(), "debs")
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755), os.MkdirAll(debs, 0o755)); err != nil {
		return err
	}
	for _, p := range found {
		data, err := get(ctx, mirror+"/"+p["Filename"])
		if err != nil {
			return err
		}
		if sum := fmt.Sprintf("%x", sha256.Sum256(data)); sum != p["SHA256"] {
			return fmt.Errorf("%s: checksum %s, want %s", p["Filename"], sum, p["SHA256"])
		}
		deb := filepath.Join(debs, filepath.Base(p["Filename"]))
		if err := os.WriteFile(deb, data, 0o644); err != nil {
			return err
		}
		if out, err := exec.CommandContext(ctx, "dpkg-deb", "-x", deb, tmp).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", deb, err, out)
		}
	}
	return os.Rename(tmp, dir)
}

// lookUp returns the fields of packages in the index of a release.
func lookUp(ctx context.Context, release string, names ...string) ([]map[string]string, error) {
	packed, err := get(ctx, fmt.Sprintf("%s/dists/%s/main/binary-%s/Packages.xz", mirror, release, runtime.GOARCH))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "xz", "-dc")
	cmd.Stdin = bytes.NewReader(packed)
	index, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("xz: %w", err)
	}
	var found []map[string]string
	for _, name := range names {
		_, text, ok := bytes.Cut(index, []byte("\nPackage: "+name+"\n"))
		if !ok {
			return nil, fmt.Errorf("%s has no package %s", release, name)
		}
		fields := make(map[string]string)
		for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan() && lines.Text() != ""; {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			fields[key] = value
		}
		found = append(found, fields)
	}
	return found, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return io.ReadAll(res.Body)
}
