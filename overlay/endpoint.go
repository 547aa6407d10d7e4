package overlay

import (
	"context"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
)

// Join makes this host take part in the network, with its first endpoint, makes the
// endpoint's link, and lets the other hosts know. It does not wait for them.
func (k *Kind) Join(ctx context.Context, n driver.Network, ep driver.Endpoint) (driver.Endpoint, driver.JoinAnswer, error) {
	if err := k.takePart(ctx, n); err != nil {
		return ep, driver.JoinAnswer{}, err
	}
	joined, answer, err := k.Endpoints.Join(ctx, n, ep)
	if err == nil {
		k.attend(n).stale.Store(true)
		k.publish(n, joined)
	}
	return joined, answer, err
}

// takePart takes this host's own addresses and makes the tunnel, if that was not done.
func (k *Kind) takePart(ctx context.Context, n driver.Network) error {
	if k.alone {
		return errAlone()
	}
	t := k.attend(n)
	defer t.lock()()
	if t.up.Load() {
		return nil
	}
	if err := k.OverlapSince(n); err != nil {
		return err
	}
	own, err := k.cfg.Addresses.TakeHostAddresses(ctx, n.ID)
	if err != nil {
		return err
	}
	return k.ensureTunnel(n, t, own)
}

// publish lets the other hosts know of an endpoint. One whose address is another host's
// is off the network, and theirs is what counts.
func (k *Kind) publish(n driver.Network, ep driver.Endpoint) {
	if ep.Off {
		k.withdraw(n, ep)
		return
	}
	e := directory.Endpoint{ID: ep.ID, MAC: ep.MAC}
	for _, p := range ep.Addrs() {
		e.Addrs = append(e.Addrs, p.Addr())
	}
	k.cfg.Directory.Publish(n.Shared.UUID, e)
}

// Leave takes the endpoint out of its sandbox; other hosts forget it.
func (k *Kind) Leave(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	k.withdraw(n, ep)
	return k.Endpoints.Leave(ctx, n, ep)
}

// RemoveEndpoint takes away what is left of the endpoint.
func (k *Kind) RemoveEndpoint(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	k.withdraw(n, ep)
	return k.Endpoints.RemoveEndpoint(ctx, n, ep)
}

func (k *Kind) withdraw(n driver.Network, ep driver.Endpoint) {
	if n.Shared != nil {
		k.cfg.Directory.Withdraw(n.Shared.UUID, ep.ID)
	}
}

// EnsureEndpoint mends the bridge port of a joined endpoint, and what others know of it.
func (k *Kind) EnsureEndpoint(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	if ep.Joined {
		k.publish(n, ep)
	}
	err := k.Endpoints.EnsureEndpoint(ctx, n, ep)
	if ep.Joined {
		t := k.attend(n)
		defer t.lock()()
		k.announce(t.moved)
	}
	return err
}

// Restore takes up an endpoint of an earlier process.
func (k *Kind) Restore(ctx context.Context, n driver.Network, ep driver.Endpoint) error {
	k.attend(n)
	if ep.Joined {
		k.publish(n, ep)
	}
	return k.Endpoints.Restore(ctx, n, ep)
}
