//go:build linux

package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Image is the image that every engine holds from the start: Debian with ip,
// ping, curl, socat, nc, drill, tcpdump, ss and python3. Its command is bash.
const Image = "weft/test:latest"

// DefaultEngine is the engine of hosts that name none, unless WEFT_LAB_ENGINE
// says otherwise.
const DefaultEngine = "28.5.2"

// Config describes a lab.
type Config struct {
	// Hosts are the hosts with engines.
	Hosts []HostConfig
	// Keep lets the lab outlive the process that started it.
	Keep bool
}

// HostConfig describes a host.
type HostConfig struct {
	// Name is the host name; h1, h2 ... by default.
	Name string
	// Engine is the version of the engine, or the Debian release that has it.
	Engine string
	// Dockerd is the path of another dockerd to run with the Engine's root.
	Dockerd string
	// DaemonArgs are arguments for dockerd.
	DaemonArgs []string
	// DaemonJSON is the text of /etc/docker/daemon.json; see SetDaemonJSON.
	DaemonJSON string
	// IptablesLegacy makes iptables use xtables instead of nftables.
	IptablesLegacy bool
	// IPForward lets the host forward packets before the engine starts. A
	// host that does not gets a FORWARD policy of DROP from its engine.
	IPForward bool
	// Sysctls are set at every boot, before the engine starts, with names as
	// for sysctl(8): net.ipv4.conf.all.rp_filter.
	Sysctls map[string]string
	// MTU is that of eth0; 1500 by default.
	MTU int
	// Plugin is a directory as InstallPlugin takes it: the engine has PluginName from its
	// first start, disabled, as if it had been made there. See SetUpPlugin.
	Plugin string
	// Light spares the processors a part of what containers cost, half with
	// [Host.Runtime]: they have no filter of system calls, and the engine's programs
	// collect garbage seldom. It is not for measurements.
	Light bool
	// NoEngine makes a host without containerd and dockerd.
	NoEngine bool
	// Binds maps paths in the host to files and directories of the machine that
	// appear there, writable. A directory in the host that is missing is made.
	Binds map[string]string
}

// TB is the part of testing.TB that a lab needs.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	Cleanup(func())
}

// Lab is a set of hosts on one switch.
type Lab struct {
	// ID is part of the name of everything the lab makes on the machine.
	ID string
	// Hosts are the hosts with engines, in the order of Config.Hosts.
	Hosts []*Host
	// Outside is a host without an engine that plays another machine.
	Outside *Host

	disk   string
	record *record
}

// New starts a lab and closes it when the test ends. If the test failed, the
// ends of the engines' logs are written to the test's log. It needs root.
func New(t TB, cfg Config) *Lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	l, err := Start(ctx, cfg)
	if err != nil {
		t.Fatalf("%v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range l.Hosts {
				if !h.cfg.NoEngine {
					t.Logf("%s: end of the engine's log:\n%s", h.Name, tail(h.EngineLog(), 60))
				}
				if h.hasMember() {
					t.Logf("%s: end of etcd's log:\n%s", h.Name, tail(h.MemberLog(), 20))
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Logf("lab: close: %v", err)
		}
	})
	return l
}

// Start is New without a test: the caller closes the lab. It removes what
// killed runs left behind, and builds missing roots.
func Start(ctx context.Context, cfg Config) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("lab: test hosts need root")
	}
	if err := installTools(ctx); err != nil {
		return nil, err
	}
	if err := CleanStale(ctx); err != nil {
		return nil, err
	}
	roots, err := hostRoots(ctx, cfg.Hosts)
	if err != nil {
		return nil, err
	}
	l, err := newLab(cfg.Keep)
	if err != nil {
		return nil, err
	}
	if err := l.populate(ctx, cfg, roots); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// newLab makes a lab without hosts.
func newLab(keep bool) (*Lab, error) {
	random := make([]byte, 3)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	id := hex.EncodeToString(random)
	l := &Lab{ID: id, disk: filepath.Join(CacheDir(), "run", id)}
	l.record = newRecord(l, keep)
	// The record comes first, so that whatever follows is found if this
	// process dies.
	if err := l.record.save(); err != nil {
		return nil, err
	}
	return l, os.MkdirAll(l.disk, 0o755)
}

// populate makes the switch and boots all hosts at the same time.
func (l *Lab) populate(ctx context.Context, cfg Config, roots []root) error {
	for i, hc := range cfg.Hosts {
		if hc.Name == "" {
			hc.Name = fmt.Sprintf("h%d", i+1)
		}
		h, err := l.addHost(hc, i+1, roots[i])
		if err != nil {
			return err
		}
		l.Hosts = append(l.Hosts, h)
	}
	out, err := l.addHost(HostConfig{Name: "outside", NoEngine: true}, outsideIndex, roots[len(roots)-1])
	if err != nil {
		return err
	}
	l.Outside = out
	if err := l.addSwitch(ctx); err != nil {
		return err
	}
	return each(l.all(), func(h *Host) error { return h.Boot(ctx) })
}

// all are the hosts and the outside.
func (l *Lab) all() []*Host {
	hosts := append([]*Host(nil), l.Hosts...)
	if l.Outside != nil {
		hosts = append(hosts, l.Outside)
	}
	return hosts
}

// Host returns the host of that name, also the outside, or nil.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.all() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Close removes the lab with everything in it.
func (l *Lab) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := each(l.all(), func(h *Host) error { return h.PowerOff(ctx) })
	return errors.Join(err, l.record.destroy(ctx))
}

// each calls f for all hosts at once and joins the errors.
func each(hosts []*Host, f func(*Host) error) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = f(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
