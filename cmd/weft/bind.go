package main

import (
	"context"
	"errors"
	"slices"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/ipam"
	"github.com/weft-net/weft/plugin"
)

// bound is the driver's wire that also tells the address book which network a
// pool went to, because the engine asks for pools before it names a network, and whoever
// wants to know that an endpoint came to a sandbox or left it.
type bound struct {
	driver.Wire
	nets  networks
	ipam  *ipam.IPAM
	moved func()
}

// networks are the driver's.
type networks interface {
	Network(id string) (driver.Network, bool)
	DropNetwork(ctx context.Context, id string) error
}

// Join is followed by moved.
func (b bound) Join(ctx context.Context, req plugin.JoinRequest) (plugin.JoinResponse, error) {
	defer b.moved()
	return b.Wire.Join(ctx, req)
}

// Leave is followed by moved.
func (b bound) Leave(ctx context.Context, req plugin.EndpointRequest) error {
	defer b.moved()
	return b.Wire.Leave(ctx, req)
}

// CreateNetwork makes the network and binds its pools. Networks whose addresses
// another IPAM driver gives have none here.
func (b bound) CreateNetwork(ctx context.Context, req plugin.CreateNetworkRequest) error {
	_, repeated := b.nets.Network(req.NetworkID)
	if err := b.Wire.CreateNetwork(ctx, req); err != nil {
		return err
	}
	for _, data := range slices.Concat(req.IPv4Data, req.IPv6Data) {
		err := b.ipam.Bind(ctx, req.NetworkID, data.Pool)
		if err != nil && !errors.Is(err, ipam.ErrUnknownPool) {
			if !repeated { // the engine sends no DeleteNetwork for a creation that failed
				err = errors.Join(err, b.nets.DropNetwork(context.WithoutCancel(ctx), req.NetworkID))
			}
			return err
		}
	}
	return nil
}
