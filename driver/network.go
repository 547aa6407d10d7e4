package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/journal"
)

// creation is the name of the lock that one network creation holds against
// another, so that two overlapping subnets cannot pass the check together.
const creation = "creation"

// places is the name of the lock that is held while a network goes to other devices, and
// while one in creation takes its place: nobody takes one that was looked at before
// another network came. It is held for a look at the kernel and the journal only, as
// containers wait for it; a creation may wait for the cluster.
const places = "places"

// settlingTime is how long an endpoint may be without its sandbox: engines
// before 28 make it after Join.
const settlingTime = 30 * time.Second

// CreateNetwork checks and makes a network. The same call for a network that
// exists succeeds (an engine repeats it for Swarm networks); with other
// settings it is ErrExists. When it fails nothing is left behind.
func (d *Driver) CreateNetwork(ctx context.Context, n Network) (retErr error) {
	defer d.locks.Lock(creation)()
	defer d.locks.Lock(networkKey(n.ID))()
	kind, err := d.checkNetwork(&n)
	if err != nil {
		return err
	}
	if have, _, err := d.network(n.ID); err == nil {
		return d.recreate(ctx, kind, have, n)
	}
	n.Created = d.now().UTC()
	others, err := d.spread(kind, n.ID)
	if err != nil {
		return err
	}
	if n, err = kind.PlanNetwork(ctx, n, others); err != nil {
		return err
	}
	came := d.setCreating(n, others)
	defer d.unsetCreating()
	defer func() {
		if retErr != nil {
			retErr = errors.Join(retErr, kind.RemoveNetwork(context.WithoutCancel(ctx), n))
		}
	}()
	if came != "" {
		return WithHint(fmt.Errorf("%w: network %s went to %s while this one was created", ErrConflict, short(came), n.Device), "try again")
	}
	if err := kind.EnsureNetwork(ctx, n); err != nil {
		return err
	}
	d.forwarding.called.Store(true)
	if err := d.forward(ctx, n); err != nil {
		return err
	}
	return d.saveNetwork(ctx, n)
}

// setCreating keeps reconcile from sweeping the devices of a network that is not in the map
// yet, and others from following to where it will be. It returns the id of one that came
// there and was not there among the others that it was checked against, "" if none did.
func (d *Driver) setCreating(n Network, others []Network) (came string) {
	defer d.locks.Lock(places)()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.creating = &n
	for id, o := range d.networks {
		known := slices.ContainsFunc(others, func(was Network) bool { return was.ID == id && was.Device == o.Device })
		if o.Device == n.Device && !known {
			return id
		}
	}
	return ""
}

func (d *Driver) unsetCreating() {
	d.mu.Lock()
	d.creating = nil
	d.mu.Unlock()
}

// checkNetwork fills in the mode and checks everything that no kind decides.
func (d *Driver) checkNetwork(n *Network) (Kind, error) {
	n.Mode = n.Options["mode"]
	if n.Mode == "" {
		n.Mode = d.cfg.DefaultMode
	}
	modes := slices.Sorted(maps.Keys(d.cfg.Kinds))
	kind := d.cfg.Kinds[n.Mode]
	if kind == nil {
		return nil, fmt.Errorf("%w: mode=%q: %w", ErrOption, n.Mode, OneOf(modes...)(n.Mode))
	}
	known := append(commonOptions(modes), kind.Options()...)
	ignored, err := checkOptions(n.Sort()+" network", n.Options, known)
	if err != nil {
		return nil, err
	}
	for _, key := range ignored {
		d.log.Warn("option ignored", "network", short(n.ID), "option", key)
	}
	for _, s := range n.Subnets() {
		if err := checkSubnet(s); err != nil {
			return nil, err
		}
	}
	return kind, nil
}

func checkSubnet(s Subnet) error {
	if a := s.Pool.Addr(); a.IsLoopback() || a.IsMulticast() {
		return fmt.Errorf("%w: subnet %s is a range of loopback or multicast addresses", ErrConflict, s.Pool)
	}
	for _, a := range []netip.Addr{s.Gateway, s.DefaultRoute} {
		if a.IsValid() && !s.Pool.Contains(a) {
			return WithHint(fmt.Errorf("%w: gateway %s is not in the subnet %s", ErrConflict, a, s.Pool),
				"choose an address of %s with --gateway", s.Pool)
		}
	}
	return nil
}

// recreate answers a second creation of one id.
func (d *Driver) recreate(ctx context.Context, kind Kind, have, want Network) error {
	same := have.Mode == want.Mode && have.Internal == want.Internal && maps.Equal(have.Options, want.Options) &&
		slices.Equal(have.IPv4, want.IPv4) && slices.Equal(have.IPv6, want.IPv6)
	if !same {
		return WithHint(fmt.Errorf("network %s %w with other settings", short(have.ID), ErrExists),
			"remove it with `docker network rm` first")
	}
	// Swarm networks come again after a crash of the engine, and their old
	// endpoints are never deleted.
	for _, ep := range d.joined(have.ID) {
		if !d.Abandoned(ep) {
			continue
		}
		if err := d.removeEndpoint(ctx, kind, have, ep); err != nil {
			return err
		}
	}
	d.forwardFor(ctx, have)
	return kind.EnsureNetwork(ctx, have)
}

// Abandoned reports whether the sandbox that has an endpoint is gone: its container ended, and
// nobody told weft.
func (d *Driver) Abandoned(ep Endpoint) bool {
	return ep.Joined && !d.cfg.Kernel.SandboxExists(ep.Sandbox) && d.now().Sub(ep.Created) >= settlingTime
}

// DeleteNetwork takes a network and all its endpoints away. The engine cannot
// be told no, so errors are collected and what could not be removed is left to
// reconcile; an unknown network is success. A shared network leaves a mark, see
// [Driver.Absent]: it is still there on other hosts.
func (d *Driver) DeleteNetwork(ctx context.Context, id string) error {
	defer d.locks.Lock(networkKey(id))()
	n, kind, err := d.network(id)
	if errors.Is(err, ErrNetworkUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	ops := []journal.Op{journal.Delete(bucketNetworks, id)}
	var errs []error
	eps := d.Endpoints(id)
	for _, ep := range eps {
		errs = append(errs, kind.Unpublish(ctx, n, ep), kind.RemoveEndpoint(ctx, n, ep))
		ops = append(ops, journal.Delete(bucketEndpoints, ep.ID))
	}
	errs = append(errs, kind.RemoveNetwork(ctx, n))
	mark, marked := d.mark(n)
	ops = append(append(ops, mark...), journal.Delete(bucketListed, id))
	if err := d.cfg.Journal.Commit(ctx, ops...); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.mu.Lock()
	marked()
	delete(d.listed, id)
	delete(d.networks, id)
	for _, ep := range eps {
		delete(d.endpoints, ep.ID)
	}
	d.mu.Unlock()
	d.logTeardown("remove network", id, errs)
	return nil
}

// logTeardown reports what a teardown could not do. The engine would only log
// it too, and reconcile will try again.
func (d *Driver) logTeardown(what, id string, errs []error) {
	if err := errors.Join(errs...); err != nil {
		d.log.Error(what, "id", short(id), "err", err)
	}
}

// SkipGateway says which families of a network need no gateway address.
func (d *Driver) SkipGateway(options map[string]string, internal bool) (v4, v6 bool, err error) {
	n := Network{Options: options, Internal: internal}
	kind, err := d.checkNetwork(&n)
	if err != nil {
		return false, false, err
	}
	v4, v6 = kind.SkipGateway(options, internal)
	return v4, v6, nil
}
