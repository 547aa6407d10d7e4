//go:build linux

package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// pluginsKept is how long a prepared plugin that nobody uses stays in the cache.
const pluginsKept = time.Hour

// preparedPlugin returns the folder of the cache with what the root's engine keeps of a
// plugin: unpacking it costs the engine more than its own start. Nobody may write to it.
func (r root) preparedPlugin(ctx context.Context, dir string) (string, error) {
	digest, err := digestOf(dir)
	if err != nil {
		return "", fmt.Errorf("lab: read the plugin: %w", err)
	}
	path, err := Cached(ctx, "plugins/"+Recipe(filepath.Base(r.Dir), digest), func(ctx context.Context, tmp string) error {
		return errors.Join(forgetPlugins(), r.bakePlugin(ctx, dir, tmp))
	})
	if err != nil {
		return "", err
	}
	now := time.Now()
	return path, os.Chtimes(path, now, now)
}

// PreparedPlugin returns the folder of the cache with what an engine keeps of the plugin in
// a directory, and has one make it if it is not there. Nobody may write to it.
func PreparedPlugin(ctx context.Context, engine, dir string) (string, error) {
	r, err := engineRoot(ctx, engine)
	if err != nil {
		return "", err
	}
	return r.preparedPlugin(ctx, dir)
}

// digestOf names the files below a directory, and what is in them.
func digestOf(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %v\n", name, info.Mode())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			fmt.Fprintf(h, "%q\n", target)
			return err
		case !info.Mode().IsRegular():
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// forgetPlugins removes from the cache what no host was given lately: there is one for
// every build of a plugin.
func forgetPlugins() error {
	dirs, err := filepath.Glob(filepath.Join(CacheDir(), "plugins", "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err == nil && time.Since(info.ModTime()) > pluginsKept {
			err = os.RemoveAll(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// bakePlugin has an engine make a plugin, and keeps what it made.
func (r root) bakePlugin(ctx context.Context, dir, tmp string) error {
	return r.bake(ctx, func(h *Host) error { return h.createPlugin(ctx, dir) }, func(h *Host) error {
		return os.Rename(filepath.Join(h.disk, "docker/plugins"), tmp)
	})
}

// copyPlugin gives a host its own copy of a prepared plugin, with an ID of its own.
// The files are hard links: engines replace them, and the plugin writes to none.
func copyPlugin(ctx context.Context, prepared, graph string) error {
	const script = `
		cp -al "$0" "$1/plugins"
		cd "$1/plugins"
		for config in */config.json; do
			old=${config%/*}
			new=$(tr -d - </proc/sys/kernel/random/uuid)$(tr -d - </proc/sys/kernel/random/uuid)
			sed "s/$old/$new/g" "$config" >"$old/config.new"
			mv "$old/config.new" "$config"
			mv "$old" "$new"
		done`
	_, err := machine(ctx, "sh", "-ec", script, prepared, graph)
	return err
}
