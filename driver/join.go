package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Join makes the endpoint's link for a sandbox. A second Join without a Leave
// gives the same answer (the engine does that for --link).
func (d *Driver) Join(ctx context.Context, network, id, sandbox string, wanted []Binding) (_ JoinAnswer, retErr error) {
	defer d.nowJoining(network)()
	if err := d.settle(ctx, network); err != nil {
		return JoinAnswer{}, err
	}
	defer d.locks.RLock(networkKey(network))()
	defer d.locks.Lock(endpointKey(id))()
	n, kind, err := d.network(network)
	if err != nil {
		return JoinAnswer{}, err
	}
	ep, err := d.endpoint(network, id)
	if err != nil {
		return JoinAnswer{}, err
	}
	ep.Sandbox, ep.Wanted = sandbox, wanted
	ep.PortsElsewhere = len(wanted) > 0 && d.publishesBeside(ep)
	d.forwardFor(ctx, n) // the host may have booted since the network was made
	joined, answer, err := kind.Join(ctx, n, ep)
	if err != nil {
		return JoinAnswer{}, err
	}
	joined.Joined, joined.Left = true, ""
	if err := d.saveEndpoint(ctx, joined); err != nil {
		return JoinAnswer{}, errors.Join(err, kind.Leave(context.WithoutCancel(ctx), n, joined))
	}
	return answer, nil
}

// nowJoining says that an endpoint of a network is being joined, until done is called.
func (d *Driver) nowJoining(network string) (done func()) {
	add := func(count int) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.joining[network] += count; d.joining[network] == 0 {
			delete(d.joining, network)
		}
	}
	add(1)
	return func() { add(-1) }
}

func (d *Driver) isJoining(network string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.joining[network] > 0
}

// publishesBeside reports whether another endpoint of the sandbox publishes its ports.
func (d *Driver) publishesBeside(ep Endpoint) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, other := range d.endpoints {
		if other.ID == ep.ID || !other.Joined || other.Sandbox != ep.Sandbox {
			continue
		}
		n := d.networks[other.Network]
		if _, portless := d.cfg.Kinds[n.Mode].(Portless); !portless && !n.Internal {
			return true
		}
	}
	return false
}

// Leave takes the endpoint out of its sandbox and closes its ports. Unknown
// endpoints and endpoints that left before are success.
func (d *Driver) Leave(ctx context.Context, network, id string) error {
	defer d.locks.RLock(networkKey(network))()
	defer d.locks.Lock(endpointKey(id))()
	ep, err := d.endpoint(network, id)
	if err != nil {
		return nil
	}
	n, kind, err := d.network(network)
	if err != nil {
		return err
	}
	errs := []error{kind.Unpublish(ctx, n, ep), kind.Leave(ctx, n, ep)}
	if ep.Attach == AttachDocker || errs[1] != nil { // what was not taken away yet may be there
		ep.Left = ep.Sandbox
	}
	ep.Joined, ep.Sandbox, ep.Attach, ep.AttachWhy = false, "", "", ""
	ep.Wanted, ep.Bindings, ep.Ports = nil, nil, nil
	if err := d.saveEndpoint(ctx, ep); err != nil {
		return errors.Join(append(errs, err)...)
	}
	d.logTeardown("leave", id, errs)
	return nil
}

// Publish makes exactly these ports answer for the endpoint. On failure the
// ports that it had are closed too, and nothing is half open.
func (d *Driver) Publish(ctx context.Context, network, id string, bindings []Binding) error {
	defer d.locks.RLock(networkKey(network))()
	defer d.locks.Lock(endpointKey(id))()
	n, kind, err := d.network(network)
	if err != nil {
		return err
	}
	ep, err := d.endpoint(network, id)
	if err != nil {
		return err
	}
	if slices.Equal(ep.Bindings, bindings) {
		return nil
	}
	published, err := kind.Publish(ctx, n, ep, bindings)
	if err == nil {
		published.Bindings = bindings
		err = d.saveEndpoint(ctx, published)
	}
	if err == nil {
		return nil
	}
	cleanup := context.WithoutCancel(ctx)
	ep.Bindings, ep.Ports = nil, nil
	return errors.Join(err, kind.Unpublish(cleanup, n, published), d.saveEndpoint(cleanup, ep))
}

// Unpublish closes the endpoint's ports. Unknown endpoints are success.
func (d *Driver) Unpublish(ctx context.Context, network, id string) error {
	defer d.locks.RLock(networkKey(network))()
	defer d.locks.Lock(endpointKey(id))()
	ep, err := d.endpoint(network, id)
	if err != nil || len(ep.Ports)+len(ep.Bindings) == 0 {
		return nil
	}
	n, kind, err := d.network(network)
	if err != nil {
		return err
	}
	if err := kind.Unpublish(ctx, n, ep); err != nil {
		return fmt.Errorf("close ports of endpoint %s: %w", short(id), err)
	}
	ep.Bindings, ep.Ports = nil, nil
	return d.saveEndpoint(ctx, ep)
}
