package ipam

import (
	"context"

	"github.com/weft-net/weft/plugin"
)

// Wire is an [IPAM] behind Docker's wire protocol.
type Wire struct{ m *IPAM }

var _ plugin.IPAMDriver = (*Wire)(nil)

// NewWire returns the driver that the plugin socket serves.
func NewWire(m *IPAM) *Wire { return &Wire{m} }

// GetCapabilities says that the engine neither has to make MAC addresses nor to
// repeat requests at its start: everything is in the journal.
func (w *Wire) GetCapabilities(context.Context) (plugin.IPAMCapabilities, error) {
	return plugin.IPAMCapabilities{}, nil
}

// GetDefaultAddressSpaces returns [LocalSpace] and [GlobalSpace].
func (w *Wire) GetDefaultAddressSpaces(context.Context) (plugin.AddressSpaces, error) {
	return plugin.AddressSpaces{LocalDefaultAddressSpace: LocalSpace, GlobalDefaultAddressSpace: GlobalSpace}, nil
}

// RequestPool is [IPAM.RequestPool].
func (w *Wire) RequestPool(ctx context.Context, req plugin.RequestPoolRequest) (plugin.RequestPoolResponse, error) {
	p, err := w.m.RequestPool(ctx, PoolRequest{
		Space: req.AddressSpace, Subnet: req.Pool, Range: req.SubPool, IPv6: req.IPv6(), Options: req.Options,
	})
	if err != nil {
		return plugin.RequestPoolResponse{}, err
	}
	return plugin.RequestPoolResponse{PoolID: p.ID, Pool: p.Subnet}, nil
}

// ReleasePool is [IPAM.ReleasePool].
func (w *Wire) ReleasePool(ctx context.Context, req plugin.ReleasePoolRequest) error {
	return w.m.ReleasePool(ctx, req.PoolID)
}

// RequestAddress is [IPAM.RequestAddress].
func (w *Wire) RequestAddress(ctx context.Context, req plugin.RequestAddressRequest) (plugin.RequestAddressResponse, error) {
	a, err := w.m.RequestAddress(ctx, AddressRequest{
		PoolID: req.PoolID, Address: req.Address, Gateway: req.Gateway(), Bare: req.Options == nil, Name: req.EndpointName(),
	})
	if err != nil {
		return plugin.RequestAddressResponse{}, err
	}
	return plugin.RequestAddressResponse{Address: a}, nil
}

// ReleaseAddress is [IPAM.ReleaseAddress].
func (w *Wire) ReleaseAddress(ctx context.Context, req plugin.ReleaseAddressRequest) error {
	return w.m.ReleaseAddress(ctx, req.PoolID, req.Address)
}
