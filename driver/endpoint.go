package driver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/weft-net/weft/internal/journal"
)

// CreateEndpoint records an endpoint and returns it with its MAC address and
// names. It makes no link: the sandbox may not be there yet.
func (d *Driver) CreateEndpoint(ctx context.Context, ep Endpoint) (Endpoint, error) {
	if err := d.settle(ctx, ep.Network); err != nil {
		return ep, err
	}
	defer d.locks.RLock(networkKey(ep.Network))()
	defer d.locks.Lock(endpointKey(ep.ID))()
	n, kind, err := d.network(ep.Network)
	if err != nil {
		return ep, err
	}
	if _, err := d.endpoint(ep.Network, ep.ID); err == nil {
		return ep, fmt.Errorf("endpoint %s %w", short(ep.ID), ErrExists)
	}
	ignored, err := checkOptions("an endpoint", ep.DriverOpts, endpointOptions())
	if err != nil {
		return ep, err
	}
	for _, key := range ignored {
		d.log.Warn("option ignored", "endpoint", short(ep.ID), "option", key)
	}
	if err := errors.Join(checkAddresses(n, ep), checkMAC(ep)); err != nil {
		return ep, err
	}
	ep.Created = d.now().UTC()
	if ep, err = kind.PlanEndpoint(n, ep); err != nil {
		return ep, err
	}
	if err := d.claim(ep); err != nil {
		return ep, err
	}
	if err := d.cfg.Journal.Commit(ctx, journal.Put(bucketEndpoints, ep.ID, ep)); err != nil {
		d.forget(ep.ID)
		return ep, err
	}
	return ep, nil
}

// claim makes the endpoint visible unless another one of its network has one
// of its addresses.
func (d *Driver) claim(ep Endpoint) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, other := range d.endpoints {
		if other.Network != ep.Network {
			continue
		}
		for _, p := range ep.Addrs() {
			if slices.Contains(other.Addrs(), p) {
				return WithHint(fmt.Errorf("%w: address %s is already in use by endpoint %s", ErrConflict, p.Addr(), short(other.ID)),
					"choose another address with --ip, or remove that container")
			}
		}
	}
	d.endpoints[ep.ID] = ep
	return nil
}

func (d *Driver) forget(id string) {
	d.mu.Lock()
	delete(d.endpoints, id)
	d.mu.Unlock()
}

// checkMAC refuses an address that the kernel gives no device.
func checkMAC(ep Endpoint) error {
	if ep.MAC == "" {
		return nil
	}
	mac, err := net.ParseMAC(ep.MAC)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return WithHint(fmt.Errorf("%w: MAC address %q is of no single device", ErrOption, ep.MAC), "use one with an even first octet and not all zero, such as 02:42:ac:11:00:02")
	}
	return nil
}

func checkAddresses(n Network, ep Endpoint) error {
	for _, p := range ep.Addrs() {
		subnets := n.IPv4
		if p.Addr().Is6() {
			subnets = n.IPv6
		}
		if len(subnets) == 0 && p.Addr().Is4() && n.IPv4 == nil && n.IPv6 == nil {
			continue // --ipam-driver null
		}
		inside := func(s Subnet) bool { return s.Pool.Contains(p.Addr()) }
		if !slices.ContainsFunc(subnets, inside) {
			return fmt.Errorf("%w: address %s is in no subnet of network %s", ErrConflict, p.Addr(), short(n.ID))
		}
		if slices.ContainsFunc(subnets, func(s Subnet) bool { return s.Gateway == p.Addr() }) {
			return fmt.Errorf("%w: address %s is the gateway of network %s", ErrConflict, p.Addr(), short(n.ID))
		}
	}
	return nil
}

// DeleteEndpoint takes an endpoint away, ports and link included. An unknown
// one is success.
func (d *Driver) DeleteEndpoint(ctx context.Context, network, id string) error {
	defer d.locks.RLock(networkKey(network))()
	defer d.locks.Lock(endpointKey(id))()
	ep, err := d.endpoint(network, id)
	if err != nil {
		return nil // deleted before, or never made
	}
	n, kind, err := d.network(network)
	if err != nil {
		return err
	}
	return d.removeEndpoint(ctx, kind, n, ep)
}

// removeEndpoint needs the endpoint's lock.
func (d *Driver) removeEndpoint(ctx context.Context, kind Kind, n Network, ep Endpoint) error {
	errs := []error{kind.Unpublish(ctx, n, ep), kind.RemoveEndpoint(ctx, n, ep)}
	if err := d.cfg.Journal.Commit(ctx, journal.Delete(bucketEndpoints, ep.ID)); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.forget(ep.ID)
	d.logTeardown("remove endpoint", ep.ID, errs)
	return nil
}

// Info describes an endpoint for EndpointOperInfo.
func (d *Driver) Info(network, id string) (map[string]string, error) {
	ep, err := d.endpoint(network, id)
	if err != nil {
		return nil, err
	}
	info := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			info[key] = value
		}
	}
	set("weft.hostLink", ep.HostLink)
	set("weft.attach", string(ep.Attach))
	set("weft.mac", ep.MAC)
	for i, p := range ep.Ports {
		set(fmt.Sprintf("weft.port.%d", i), fmt.Sprintf("%s -> %s", p.Host, p.Container))
	}
	return info, nil
}
