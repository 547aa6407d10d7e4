package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/driver/parented"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/ipam"
)

// leaksEvery is a little more than the minute that two answers must be apart.
const leaksEvery = 65 * time.Second

// hostRecord is the journal's note of who this host is.
type hostRecord struct {
	ID string `json:"id"`
}

// hostID is a random id that the journal keeps. A journal without one is new.
func hostID(ctx context.Context, j *journal.Journal) (id string, isNew bool, err error) {
	const bucket, key = "host", "identity"
	known, err := journal.Load[hostRecord](j, bucket)
	if err != nil {
		return "", false, err
	}
	if rec, ok := known[key]; ok {
		return rec.ID, false, nil
	}
	rec := hostRecord{ID: rand.Text()}
	return rec.ID, true, j.Commit(ctx, journal.Put(bucket, key, rec))
}

// blind says that a new journal meets links of an older one: the journal was
// lost, or is looked for in another place, and containers may live on the links.
func (h *house) blind(isNew bool) (bool, error) {
	links, err := h.kernel.Links()
	if err != nil || !isNew || !slices.ContainsFunc(links, driver.Ours) {
		return false, err
	}
	h.log.Error("the journal is new, but links of weft are there: they stay; put the journal back, or remove them with `weft reset --yes`",
		"journal", h.flags.journal)
	return true, nil
}

// mayNotSweep reports whether links that belong to nothing have to stay: the journal
// is new, or may be an older copy. That shows when the cluster's store knows this run.
func (h *house) mayNotSweep(blind bool) func() bool {
	return func() bool { return blind || h.cluster != nil && !h.cluster.Confirmed() }
}

// openIPAM makes the address book of this host.
func (h *house) openIPAM(cfg config.Config, blind bool, log *slog.Logger) (*ipam.IPAM, error) {
	pools, err := ipam.ParsePools(cfg.Pools)
	if err != nil {
		return nil, err
	}
	line := asker{probe: h.kernel.Probe, endpoints: func(network string) []driver.Endpoint { return h.driver.Endpoints(network) }}
	out := ipam.Config{Journal: h.journal, Seed: h.hostID, Pools: pools, Routes: h.onLink, Logger: log, Holders: h.ipamHolders, Cluster: h.cluster,
		OnConflict: h.tellConflicts, OnLine: h.onLine, Prober: line, Line: h.line, Follow: h.follow, Blind: blind, Leader: cfg.Scope == "global"}
	if h.cluster != nil {
		out.Network = h.poolsOf
	}
	return ipam.New(out)
}

// poolsOf are those of the cluster's network of a name.
func (h *house) poolsOf(ctx context.Context, name string) (ipam.NetworkPools, bool, error) {
	n, ok, err := h.directory.Lookup(ctx, name)
	return ipam.NetworkPools{Subnets: n.Subnets, Domain: accord.Domain(n)}, ok, err
}

// onLine reports whether a network's containers are on a line of the host's: what subnet
// another line has is no matter.
func (h *house) onLine(network string) bool {
	n, ok := h.driver.Network(network)
	return ok && parented.OnParent(n)
}

// tellConflicts lets the driver keep off the network what has an address of another
// host.
func (h *house) tellConflicts() {
	var out []driver.Conflict
	for _, c := range h.ipam.Conflicts() {
		out = append(out, driver.Conflict{Network: c.Network, Address: c.Address})
	}
	h.driver.SetConflicts(out)
}

// onLink are the subnets that this host reaches; dynamic pools avoid them.
func (h *house) onLink() []netip.Prefix {
	routes, err := h.kernel.Routes()
	if err != nil {
		h.log.Warn("routes of the host", "err", err)
		return nil
	}
	var out []netip.Prefix
	for _, r := range routes {
		if r.Dst.Bits() > 1 && !r.Gateway.IsValid() && !r.Ours {
			out = append(out, r.Dst)
		}
	}
	return out
}

// engineUp reports whether the engine answers.
func (h *house) engineUp() bool {
	_, ok := h.engine.Info()
	return ok
}

// holders tells the driver what the engine still knows.
func (h *house) holders(ctx context.Context) (driver.Holders, error) {
	held, err := h.engine.Held(ctx)
	return driver.Holders{Networks: held.Networks, Endpoints: held.Endpoints, At: held.At}, err
}

// ipamHolders tells ipam which addresses the engine and the driver still use.
func (h *house) ipamHolders(ctx context.Context) (ipam.Holders, error) {
	held, err := h.engine.Held(ctx)
	if err != nil {
		return ipam.Holders{}, err
	}
	for _, ep := range h.driver.Endpoints("") {
		for _, p := range ep.Addrs() {
			held.Addresses[p.Addr()] = true
		}
	}
	for _, n := range h.driver.Networks() {
		for _, s := range n.Subnets() {
			held.Subnets[s.Pool] = true
		}
		own, lost := h.ipam.HostAddresses(n.ID)
		for _, p := range append(own, lost...) {
			held.Addresses[p.Addr()] = true
		}
	}
	return ipam.Holders{Addresses: held.Addresses, Subnets: held.Subnets, At: held.At}, nil
}

// collectLeaks takes back, every minute, what the engine has forgotten: first
// endpoints and networks, then their addresses.
func (h *house) collectLeaks(ctx context.Context) error {
	tick := time.NewTicker(leaksEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := h.driver.CollectLeaks(ctx)
		_, addrs := h.ipam.CollectLeaks(ctx, nil)
		if err := errors.Join(err, addrs); err != nil && ctx.Err() == nil {
			h.log.Info("not all leaks could be looked for", "err", err)
		}
	}
}
