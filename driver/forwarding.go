package driver

import (
	"context"
	"errors"
	"fmt"

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

// forward lets the host forward for a network. It is for calls of the engine, and for
// reconcile once the engine answers: an engine that starts on a host that does not forward
// turns that on itself, with the policy for strangers' packets that its settings ask for. If
// it found it turned on, it would leave them to pass.
func (d *Driver) forward(ctx context.Context, kind Kind, n Network) error {
	router, ok := kind.(Router)
	if !ok {
		return nil
	}
	v4, v6 := router.Forwards(n)
	if v4 {
		if err := d.turnOn(ctx, forwardIPv4, nil); err != nil {
			return err
		}
	}
	if v6 {
		return d.turnOn(ctx, forwardIPv6, d.keepAdvertisements)
	}
	return nil
}

// turnOn makes the host forward one family, with the policy first; before is called when
// it does not yet.
func (d *Driver) turnOn(ctx context.Context, key string, before func() error) error {
	if have, err := d.cfg.Kernel.Sysctl(key); err == nil && have == "1" {
		return nil
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

// keepAdvertisements sets accept_ra=2 on uplinks that live from router advertisements: with
// IPv6 forwarding the kernel stops to heed them.
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
