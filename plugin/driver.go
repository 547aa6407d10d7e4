package plugin

import "context"

// NetworkDriver is what a caller implements to be Docker's network driver. The
// methods are those of the wire, documented at their types.
//
// All methods are called concurrently, under locks of the engine, so they must
// not call the Docker API and wait. ctx ends when [Config].Timeout has passed,
// not when the engine hangs up.
type NetworkDriver interface {
	GetCapabilities(ctx context.Context) (NetworkCapabilities, error)
	AllocateNetwork(ctx context.Context, req AllocateNetworkRequest) (AllocateNetworkResponse, error)
	FreeNetwork(ctx context.Context, req NetworkRequest) error
	// GwAllocCheck is called by engines from 28.0, if the capability says so.
	GwAllocCheck(ctx context.Context, req GwAllocCheckRequest) (GwAllocCheckResponse, error)
	CreateNetwork(ctx context.Context, req CreateNetworkRequest) error
	// DeleteNetwork cannot refuse: an error is logged and the network is gone.
	DeleteNetwork(ctx context.Context, req NetworkRequest) error
	// CreateEndpoint is not followed by DeleteEndpoint when it fails.
	CreateEndpoint(ctx context.Context, req CreateEndpointRequest) (CreateEndpointResponse, error)
	// DeleteEndpoint cannot refuse and must accept ids it does not know.
	DeleteEndpoint(ctx context.Context, req EndpointRequest) error
	EndpointOperInfo(ctx context.Context, req EndpointRequest) (OperInfoResponse, error)
	Join(ctx context.Context, req JoinRequest) (JoinResponse, error)
	// Leave cannot refuse, may come twice (engine 29.0 and later), and must accept
	// ids it does not know.
	Leave(ctx context.Context, req EndpointRequest) error
	// ProgramExternalConnectivity stops the container's start when it fails.
	ProgramExternalConnectivity(ctx context.Context, req ProgramRequest) error
	// RevokeExternalConnectivity may never come (engine 29.0 and later).
	RevokeExternalConnectivity(ctx context.Context, req EndpointRequest) error
	DiscoverNew(ctx context.Context, req DiscoverRequest) error
	DiscoverDelete(ctx context.Context, req DiscoverRequest) error
}

// IPAMDriver is what a caller implements to be Docker's IPAM driver. What is
// said of [NetworkDriver] holds here too. Errors reach the user as text; no
// error makes the engine try a network's next pool.
type IPAMDriver interface {
	GetCapabilities(ctx context.Context) (IPAMCapabilities, error)
	GetDefaultAddressSpaces(ctx context.Context) (AddressSpaces, error)
	RequestPool(ctx context.Context, req RequestPoolRequest) (RequestPoolResponse, error)
	// ReleasePool cannot refuse and must accept ids it does not know.
	ReleasePool(ctx context.Context, req ReleasePoolRequest) error
	RequestAddress(ctx context.Context, req RequestAddressRequest) (RequestAddressResponse, error)
	// ReleaseAddress cannot refuse, may come twice and must accept addresses it
	// does not know.
	ReleaseAddress(ctx context.Context, req ReleaseAddressRequest) error
}
