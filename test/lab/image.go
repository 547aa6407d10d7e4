//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	imagePackages = "iproute2 iputils-ping iputils-arping curl socat netcat-openbsd python3-minimal procps ldnsutils tcpdump"

	// bakeRecipe changes when bakeImage does, so that roots are built again.
	bakeRecipe = "1"
)

// appPackages are those of the image that [Host.ImportApp] brings.
const appPackages = "redis-server python3-flask python3-redis"

func imageRecipe() string { return Recipe(imagePackages, slimScript) }

// testImage returns the path of the file that "docker import" makes Image of.
func testImage(ctx context.Context) (string, error) {
	return packImage(ctx, "images/test-"+imageRecipe()+".tar", imagePackages)
}

// packImage makes the file of an image with some packages of the oldest release.
func packImage(ctx context.Context, name, packages string) (string, error) {
	return Cached(ctx, name, func(ctx context.Context, tmp string) error {
		tree := tmp + ".tree"
		if err := os.RemoveAll(tree); err != nil {
			return err
		}
		err := debootstrap(ctx, releases()[0], packages, tree)
		if err == nil {
			_, err = machine(ctx, "tar", "--numeric-owner", "--exclude=./dev/*", "--exclude=./proc/*", "-C", tree, "-cf", tmp, ".")
		}
		return errors.Join(err, os.RemoveAll(tree))
	})
}

// ImportApp gives the host's engine an image of this name, with Debian's redis-server,
// Flask and the Redis client for Python, changed as "docker import --change" takes it.
func (h *Host) ImportApp(ctx context.Context, name string, changes ...string) error {
	path, err := packImage(ctx, "images/app-"+Recipe(appPackages, slimScript)+".tar", appPackages)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	args := []string{"docker", "import", "--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	_, err = h.RunInput(ctx, f, append(args, "-", name)...)
	return err
}

// bakeImage has the engine of a new root import the test image, and keeps its graph in
// the root.
func bakeImage(ctx context.Context, r root, image string) error {
	return r.bake(ctx, func(h *Host) error {
		version, err := h.EngineVersion(ctx)
		if err != nil {
			return err
		}
		if version != r.Engine {
			return fmt.Errorf("lab: the archive has engine %s by now, not %s", version, r.Engine)
		}
		f, err := os.Open(image)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = h.RunInput(ctx, f, "docker", "import", "--change", `CMD ["bash"]`,
			"--change", "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "-", Image)
		return err
	}, func(h *Host) error {
		// Only image and layers: every engine makes its own identity and networks.
		graph := filepath.Join(r.Dir, "docker")
		if err := os.Mkdir(graph, 0o710); err != nil {
			return err
		}
		for _, dir := range []string{"image", "overlay2"} {
			if err := os.Rename(filepath.Join(h.disk, "docker", dir), filepath.Join(graph, dir)); err != nil {
				return err
			}
		}
		return nil
	})
}

// bake starts the root's engine once on a host of its own, and does something; when the
// host is off, keep takes from its disk what shall stay.
func (r root) bake(ctx context.Context, do, keep func(h *Host) error) (err error) {
	l, err := newLab(false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	h, err := l.addHost(HostConfig{
		Name:       "bake",
		DaemonArgs: []string{"--storage-driver=overlay2", "--bridge=none", "--iptables=false"},
	}, 1, r)
	if err != nil {
		return err
	}
	l.Hosts = append(l.Hosts, h)
	if err := h.start(ctx); err != nil {
		return err
	}
	if _, err := h.StartEngine(ctx); err != nil {
		return err
	}
	if err := do(h); err != nil {
		return err
	}
	if err := errors.Join(h.StopEngine(ctx), h.PowerOff(ctx)); err != nil {
		return err
	}
	return keep(h)
}
