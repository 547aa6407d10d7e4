package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/weft-net/weft/internal/kernel"
)

// A Router is a [Kind] for whose networks the host forwards packets.
type Router interface {
	// Forwards says of which families.
	Forwards(n Network) (v4, v6 bool)
}

// The settings that make a host forward.
const (
	forwardIPv4 = "net.ipv4.ip_forward"
	forwardIPv6 = "net.ipv6.conf.all.forwarding"
)

// forwarding is what the driver knows of it.
type forwarding struct {
	// turning is held while it is turned on: many containers start at once.
	turning sync.Mutex
	// called says that the engine asked for a network or a container, failed that a container
	// could not be given forwarding: the next ones do not try again, reconcile does.
	called, failed atomic.Bool
}

// forward lets the host forward what networks need. It is for calls of the engine, and for
// reconcile once the engine is up: an engine that starts on a host that does not forward
// turns that on itself, with the policy for strangers' packets that its settings ask for. If
// it found it turned on, it would leave them to pass.
func (d *Driver) forward(ctx context.Context, networks ...Network) error {
	v4, v6 := d.forwards(networks)
	var errs []error
	if v4 {
		errs = append(errs, d.turnOn(ctx, forwardIPv4, nil))
	}
	if v6 {
		errs = append(errs, d.turnOn(ctx, forwardIPv6, d.keepAdvertisements))
	}
	return errors.Join(errs...)
}

// forwards says of which families the host forwards packets for networks.
func (d *Driver) forwards(networks []Network) (v4, v6 bool) {
	for _, n := range networks {
		if router, ok := d.cfg.Kinds[n.Mode].(Router); ok {
			four, six := router.Forwards(n)
			v4, v6 = v4 || four, v6 || six
		}
	}
	return v4, v6
}

// forwardFor is forward for a container, which starts whatever comes of that: the engine does
// not try again to start what it restarts at a boot, and reconcile does.
func (d *Driver) forwardFor(ctx context.Context, n Network) {
	d.forwarding.called.Store(true)
	if d.forwarding.failed.Load() {
		return
	}
	if err := d.forward(ctx, n); err != nil {
		d.forwarding.failed.Store(true)
		d.log.Warn("the host does not forward for a network yet; reconcile tries again", "network", short(n.ID), "err", err)
		d.poke()
	}
}

// forwardAll is forward for reconcile: in full depth, or after a container's failed.
func (d *Driver) forwardAll(ctx context.Context, depth Depth) error {
	up := d.forwarding.called.Load() || d.cfg.EngineUp != nil && d.cfg.EngineUp()
	if !up || depth != Full && !d.forwarding.failed.Load() {
		return nil
	}
	err := d.forward(ctx, d.Networks()...)
	d.forwarding.failed.Store(err != nil)
	return err
}

// forwarded reports whether a setting says that the host forwards.
func (d *Driver) forwarded(key string) bool {
	have, err := d.cfg.Kernel.Sysctl(key)
	return err == nil && have == "1"
}

// turnOn makes the host forward one family, with the policy first; before is called when
// it does not yet.
func (d *Driver) turnOn(ctx context.Context, key string, before func() error) error {
	if d.forwarded(key) {
		return nil
	}
	d.forwarding.turning.Lock()
	defer d.forwarding.turning.Unlock()
	if d.forwarded(key) {
		return nil // somebody else did meanwhile
	}
	dropped, err := d.cfg.Firewall.DropByDefault(ctx, key == forwardIPv6)
	if err != nil {
		return fmt.Errorf("the host does not forward, and would for everybody: %w", err)
	}
	if before != nil {
		if err := before(); err != nil {
			return err
		}
	}
	changed, err := d.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: key, Value: "1"})
	if changed && err == nil {
		d.log.Info("the host forwards now", "sysctl", key, "dropsByDefault", dropped)
	}
	return err
}

// foreseeForwarding is what has to be done before anybody turns forwarding on: the engine may,
// and does not think of router advertisements.
func (d *Driver) foreseeForwarding() error {
	if _, v6 := d.forwards(d.Networks()); !v6 || d.forwarded(forwardIPv6) {
		return nil
	}
	return d.keepAdvertisements()
}

// keepAdvertisements sets accept_ra=2 on uplinks that live from router advertisements: with
// IPv6 forwarding the kernel stops to heed them. Without, 2 is as good as 1.
func (d *Driver) keepAdvertisements() error {
	links, err := d.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Loopback || l.Master != 0 || Ours(l) || DockerBridge(l) {
			continue
		}
		// 0 is somebody's decision; a device that went away meanwhile, or one
		// without IPv6, has no value.
		key := "net/ipv6/conf/" + l.Name + "/accept_ra"
		if have, err := d.cfg.Kernel.Sysctl(key); err != nil || have != "1" {
			continue
		}
		_, err := d.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: key, Value: "2"})
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return err
		}
	}
	return nil
}
