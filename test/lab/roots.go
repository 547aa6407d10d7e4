//go:build linux

package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

const mirror = "http://deb.debian.org/debian"

// release is a Debian release with an engine.
type release struct {
	name     string
	engine   string
	packages string // beside rootPackages
	script   string // debootstrap's, where it does not know the release
}

// releases lists the roots that can be built.
func releases() []release {
	return []release{
		{name: "bookworm", engine: "20.10.24"},
		{name: "trixie", engine: "26.1.5", packages: "docker-cli docker-compose"},
		{name: "forky", engine: "28.5.2", packages: "docker-cli docker-compose", script: "sid"},
	}
}

// Engines lists the versions that HostConfig.Engine takes, oldest first.
func Engines() []string {
	var versions []string
	for _, r := range releases() {
		versions = append(versions, r.engine)
	}
	return versions
}

func findRelease(engine string) (release, error) {
	engine = cmp.Or(engine, os.Getenv("WEFT_LAB_ENGINE"), DefaultEngine)
	for _, r := range releases() {
		if r.engine == engine || r.name == engine {
			return r, nil
		}
	}
	return release{}, fmt.Errorf("lab: no root has engine %s; there are %s", engine, strings.Join(Engines(), ", "))
}

const (
	rootPackages = "docker.io containerd runc crun iptables nftables iproute2 ca-certificates procps curl " +
		"iputils-ping iputils-arping socat netcat-openbsd conntrack python3-minimal tcpdump " +
		"etcd-server etcd-client"

	// slimScript removes from a tree what no test reads.
	slimScript = `cd "$0"
		rm -rf var/cache/apt/* var/cache/debconf/*-old var/lib/apt/lists/* var/log/*.log var/log/apt \
			usr/share/doc/* usr/share/man/* usr/share/info/* usr/share/locale/* usr/share/lintian tmp/*`

	// rootScript keeps packages that a test installs from starting daemons,
	// and makes the mount points of boot.sh.
	rootScript = `cd "$0"
		printf '#!/bin/sh\nexit 101\n' >usr/sbin/policy-rc.d
		chmod 755 usr/sbin/policy-rc.d
		rm -f etc/docker/key.json etc/machine-id var/lib/dbus/machine-id etc/resolv.conf
		mkdir -p etc/docker var/lib/docker var/lib/containerd mnt
		[ -e usr/sbin/iptables-legacy ]`
)

// Recipe names what a build results from.
func Recipe(parts ...string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(strings.Join(parts, "\n"))))[:10]
}

// root is a built root.
type root struct {
	Dir    string
	Engine string
}

// Tree is the directory with the files of the root.
func (r root) Tree() string { return filepath.Join(r.Dir, "tree") }

// copyGraph gives a host its own copy of the engine's graph. The layers are
// hard links: engines write to them through overlays only.
func (r root) copyGraph(ctx context.Context, to string) error {
	graph := filepath.Join(r.Dir, "docker")
	if _, err := os.Stat(graph); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_, err := machine(ctx, "sh", "-ec", `cp -a "$0/image" "$1/" && cp -al "$0/overlay2" "$1/" && chmod 710 "$1"`, graph, to)
	return err
}

// BuildRoots builds the roots of these engines, or of all, if they are not in
// the cache.
func BuildRoots(ctx context.Context, engines ...string) error {
	if err := installTools(ctx); err != nil {
		return err
	}
	if len(engines) == 0 {
		engines = Engines()
	}
	var wanted []release
	for _, engine := range engines {
		r, err := findRelease(engine)
		if err != nil {
			return err
		}
		wanted = append(wanted, r)
	}
	_, err := buildRoots(ctx, wanted)
	return err
}

// EngineRoot returns the folder of the cache that has the root of hosts with an engine, in
// tree, and the engine's graph with [Image], in docker. It builds them if they are not
// there. Nobody may write to them.
func EngineRoot(ctx context.Context, engine string) (string, error) {
	r, err := engineRoot(ctx, engine)
	return r.Dir, err
}

func engineRoot(ctx context.Context, engine string) (root, error) {
	if err := installTools(ctx); err != nil {
		return root{}, err
	}
	r, err := findRelease(engine)
	if err != nil {
		return root{}, err
	}
	roots, err := buildRoots(ctx, []release{r})
	return roots[0], err
}

// hostRoots returns the root of each host and, as the last, that of the
// outside.
func hostRoots(ctx context.Context, hosts []HostConfig) ([]root, error) {
	var wanted []release
	for _, h := range hosts {
		r, err := findRelease(h.Engine)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, r)
	}
	if len(wanted) == 0 {
		r, err := findRelease("")
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, r)
	}
	return buildRoots(ctx, append(wanted, wanted[0]))
}

// buildRoots returns the roots of releases. It builds as many at a time as
// there are processors.
func buildRoots(ctx context.Context, wanted []release) ([]root, error) {
	slots := make(chan struct{}, runtime.NumCPU())
	roots, errs := make([]root, len(wanted)), make([]error, len(wanted))
	var wg sync.WaitGroup
	for i, r := range wanted {
		wg.Go(func() { roots[i], errs[i] = buildRoot(ctx, r, slots) })
	}
	wg.Wait()
	return roots, errors.Join(errs...)
}

func buildRoot(ctx context.Context, r release, slots chan struct{}) (root, error) {
	name := "roots/" + r.name + "-" + Recipe(imageRecipe(), r.packages, rootPackages, slimScript, rootScript, bakeRecipe)
	dir, err := Cached(ctx, name, func(ctx context.Context, tmp string) error {
		slots <- struct{}{}
		defer func() { <-slots }()
		building := root{Dir: tmp, Engine: r.engine}
		if err := debootstrap(ctx, r, rootPackages+" "+r.packages, building.Tree()); err != nil {
			return err
		}
		if _, err := machine(ctx, "sh", "-ec", rootScript, building.Tree()); err != nil {
			return err
		}
		image, err := testImage(ctx)
		if err != nil {
			return err
		}
		return bakeImage(ctx, building, image)
	})
	return root{Dir: dir, Engine: r.engine}, err
}

// debootstrap makes the tree of a release with some packages.
func debootstrap(ctx context.Context, r release, packages, tree string) error {
	debs := filepath.Join(CacheDir(), "debs")
	if err := errors.Join(os.MkdirAll(debs, 0o755), os.MkdirAll(tree, 0o755)); err != nil {
		return err
	}
	args := []string{"debootstrap", "--variant=minbase", "--cache-dir=" + debs,
		"--include=" + strings.Join(strings.Fields(packages), ","), r.name, tree, mirror}
	if r.script != "" {
		args = append(args, "/usr/share/debootstrap/scripts/"+r.script)
	}
	if _, err := machine(ctx, args...); err != nil {
		log, _ := os.ReadFile(filepath.Join(tree, "debootstrap/debootstrap.log"))
		return fmt.Errorf("%w\n%s", err, tail(string(log), 20))
	}
	_, err := machine(ctx, "sh", "-ec", slimScript, tree)
	return err
}
