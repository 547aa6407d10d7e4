package plugin

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/docker/go-plugins-helpers/sdk"
)

// Defaults of [Config].
const (
	// DefaultTimeout is the deadline of one call.
	DefaultTimeout = 20 * time.Second
	// DefaultDrainTimeout stays below the 10 s that the engine gives a plugin
	// between SIGTERM and SIGKILL.
	DefaultDrainTimeout = 8 * time.Second
	// DefaultMaxBody is in bytes.
	DefaultMaxBody = 1 << 20
)

// Config holds what a [Handler] needs. Its zero value serves no interface.
type Config struct {
	// Network and IPAM are the drivers. An interface without a driver is left out
	// of the answer to Plugin.Activate, and its methods answer with status 404.
	Network NetworkDriver
	IPAM    IPAMDriver
	// Logger gets each call at debug level, failed ones at warn and panics at
	// error. Nil discards.
	Logger *slog.Logger
	// Timeout bounds each call, from its first byte to the driver's return; not
	// positive means DefaultTimeout.
	Timeout time.Duration
	// DrainTimeout bounds how long Serve waits for running calls when it stops;
	// not positive means DefaultDrainTimeout.
	DrainTimeout time.Duration
	// MaxBody is the largest request body in bytes; not positive means
	// DefaultMaxBody.
	MaxBody int64
	// Observe, if set, is told of every answered call: the method as in
	// "NetworkDriver.Join", how long it took, and its error or nil. It is called
	// concurrently and must not block.
	Observe func(method string, took time.Duration, err error)
}

func (c *Config) setDefaults() {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.DrainTimeout <= 0 {
		c.DrainTimeout = DefaultDrainTimeout
	}
	if c.MaxBody <= 0 {
		c.MaxBody = DefaultMaxBody
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, error) {}
	}
}

// A Handler answers the plugin protocol on any number of listeners. It is safe
// for concurrent use.
type Handler struct {
	cfg   Config
	sdk   sdk.Handler
	calls *calls
}

// New returns a Handler for the drivers in cfg. It starts nothing.
func New(cfg Config) *Handler {
	cfg.setDefaults()
	activate := ActivateResponse{Implements: []string{}}
	if cfg.Network != nil {
		activate.Implements = append(activate.Implements, InterfaceNetworkDriver)
	}
	if cfg.IPAM != nil {
		activate.Implements = append(activate.Implements, InterfaceIPAMDriver)
	}
	manifest, _ := json.Marshal(activate) // a list of strings always encodes
	h := &Handler{cfg: cfg, sdk: sdk.NewHandler(string(manifest)), calls: newCalls()}

	// The sdk answers the bare path itself; the methods in front make these two
	// patterns win, so that the handshake is logged and counted like any call.
	hello := endpoint[empty, ActivateResponse]{"Plugin.Activate", noRequest(func(context.Context) (ActivateResponse, error) {
		return activate, nil
	})}
	h.sdk.HandleFunc("POST /Plugin.Activate", handle(h, hello))
	h.sdk.HandleFunc("GET /Plugin.Activate", handle(h, hello))
	h.sdk.HandleFunc("/", h.unknown)
	if cfg.Network != nil {
		h.routeNetwork(cfg.Network)
	}
	if cfg.IPAM != nil {
		h.routeIPAM(cfg.IPAM)
	}
	return h
}

func (h *Handler) routeNetwork(d NetworkDriver) {
	const of = InterfaceNetworkDriver
	route(h, of, "GetCapabilities", noRequest(d.GetCapabilities))
	route(h, of, "AllocateNetwork", d.AllocateNetwork)
	route(h, of, "FreeNetwork", noResponse(d.FreeNetwork))
	route(h, of, "GwAllocCheck", d.GwAllocCheck)
	route(h, of, "CreateNetwork", noResponse(d.CreateNetwork))
	route(h, of, "DeleteNetwork", noResponse(d.DeleteNetwork))
	route(h, of, "CreateEndpoint", d.CreateEndpoint)
	route(h, of, "DeleteEndpoint", noResponse(d.DeleteEndpoint))
	route(h, of, "EndpointOperInfo", d.EndpointOperInfo)
	route(h, of, "Join", d.Join)
	route(h, of, "Leave", noResponse(d.Leave))
	route(h, of, "ProgramExternalConnectivity", noResponse(d.ProgramExternalConnectivity))
	route(h, of, "RevokeExternalConnectivity", noResponse(d.RevokeExternalConnectivity))
	route(h, of, "DiscoverNew", noResponse(d.DiscoverNew))
	route(h, of, "DiscoverDelete", noResponse(d.DiscoverDelete))
}

func (h *Handler) routeIPAM(d IPAMDriver) {
	const of = InterfaceIPAMDriver
	route(h, of, "GetCapabilities", noRequest(d.GetCapabilities))
	route(h, of, "GetDefaultAddressSpaces", noRequest(d.GetDefaultAddressSpaces))
	route(h, of, "RequestPool", d.RequestPool)
	route(h, of, "ReleasePool", noResponse(d.ReleasePool))
	route(h, of, "RequestAddress", d.RequestAddress)
	route(h, of, "ReleaseAddress", noResponse(d.ReleaseAddress))
}

// endpoint is one method of the protocol: its name on the wire and what
// answers it.
type endpoint[Req, Resp any] struct {
	name string
	call func(context.Context, Req) (Resp, error)
}

// route registers one method of an interface.
func route[Req, Resp any](h *Handler, iface, method string, call func(context.Context, Req) (Resp, error)) {
	name := iface + "." + method
	h.sdk.HandleFunc("/"+name, handle(h, endpoint[Req, Resp]{name, call}))
}

// noRequest adapts a method that takes nothing.
func noRequest[Resp any](call func(context.Context) (Resp, error)) func(context.Context, empty) (Resp, error) {
	return func(ctx context.Context, _ empty) (Resp, error) { return call(ctx) }
}

// noResponse adapts a method whose answer is {}.
func noResponse[Req any](call func(context.Context, Req) error) func(context.Context, Req) (empty, error) {
	return func(ctx context.Context, req Req) (empty, error) { return empty{}, call(ctx, req) }
}
