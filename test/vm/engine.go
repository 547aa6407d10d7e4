//go:build linux

package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/weft-net/weft/test/lab"
)

// EngineVariable names the engine in the machine; see [lab.Engines], of which the newest
// is the default. Without it no machine, and no engine of its own, is around a test.
const EngineVariable = "WEFT_VM_ENGINE"

// Places of the suite that has an engine, in the machine.
const (
	// EngineDisk has the root of a host with the engine, which comes to EngineRoot.
	EngineDisk = "/dev/vda"
	EngineRoot = "/root"
	// PluginDisk has what the engine keeps of the plugin, which comes to PluginDir there.
	PluginDisk = "/dev/vdb"
	PluginDir  = "/var/lib/docker/plugins"
	// TestsDir has the tests.
	TestsDir = "/tests"
)

// HasEngine says that a suite's tests run in the root of a host with an engine.
func (s Suite) HasEngine() bool { return s.Dir == "test/vm/tutorial" }

// engine is the version of the engine in the machine.
func engine() string {
	all := lab.Engines()
	return cmp.Or(os.Getenv(EngineVariable), all[len(all)-1])
}

// The root and the graph of package lab are those of its hosts too, and stay as they are.
const diskScript = `
	cp -al "$0/tree" "$1.tree"
	cp -al "$0/docker/image" "$0/docker/overlay2" "$1.tree/var/lib/docker/"
	mke2fs -q -t ext4 -O ^has_journal -d "$1.tree" "$1" 2G
	rm -r "$1.tree"`

// fetchEngine returns the path of a disk with a root of package lab, and makes either if it
// is not in the cache.
func fetchEngine(ctx context.Context) (string, error) {
	root, err := lab.EngineRoot(ctx, engine())
	if err != nil {
		return "", err
	}
	return lab.Cached(ctx, "vm/"+filepath.Base(root)+"-"+lab.Recipe(diskScript)+".ext4", func(ctx context.Context, tmp string) error {
		return errors.Join(os.RemoveAll(tmp+".tree"), run(ctx, "bash", "-eu", "-c", diskScript, root, tmp))
	})
}

// pluginDisk makes a disk of what the engine keeps of the plugin that `make plugin` left:
// an emulated processor would need long to create it.
func pluginDisk(ctx context.Context, work string) (string, error) {
	dir, err := lab.PreparedPlugin(ctx, engine(), "build/plugin")
	if err != nil {
		return "", fmt.Errorf("the plugin, which `make plugin` builds: %w", err)
	}
	path := filepath.Join(work, "plugin.ext4")
	return path, errors.Join(os.RemoveAll(path), run(ctx, "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", dir, path, "256M"))
}
