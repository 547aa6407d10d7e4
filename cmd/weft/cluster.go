package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/journal"
	"github.com/weft-net/weft/internal/netsync"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
	"github.com/weft-net/weft/overlay"
)

// errAlone is the answer to what only a cluster has.
var errAlone = errors.New("this host is on its own: it has no WEFT_STORE")

// openCluster makes this host a member, if there is a store.
func (h *house) openCluster(cfg config.Config, log func(string) *slog.Logger) error {
	h.advertise, h.vxlanPort = cfg.Advertise, cfg.VXLANPort
	if cfg.Store.Endpoints == "" {
		return nil
	}
	var err error
	h.store, err = store.Open(store.Config{
		Endpoints: cfg.Store.Endpoints, CA: cfg.Store.CA, Cert: cfg.Store.Cert, Key: cfg.Store.Key,
		User: cfg.Store.User, Password: cfg.Store.Password, Logger: log("store"),
	})
	if err != nil {
		return err
	}
	m := h.kernel.Machine()
	id, renewed, err := cluster.LoadIdentity(h.journal, cluster.Fingerprint{
		Product: m.Product, Machine: m.ID, MACs: m.MACs, Uplinks: m.Uplinks, Links: m.Links,
	})
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	h.renewed = renewed
	h.cluster = cluster.New(cluster.Config{
		Store: h.store, Journal: h.journal, Identity: id, Name: name, Describe: h.describe, Logger: log("cluster"),
		Renew: func(ctx context.Context, op journal.Op, id ownership.Host) error {
			return h.ipam.Renew(ctx, op, id)
		},
		OnChange: func() {
			h.ipam.Poke()
			h.directory.Poke()
			h.wakeSync()
		},
		Answers: h.kernel.Answers,
	})
	h.directory = directory.New(directory.Config{Cluster: h.cluster, Journal: h.journal, OnChange: h.directoryChanged, Logger: log("directory")})
	h.sync = netsync.New(netsync.Config{
		Engine: h.engine, Directory: h.directory, Host: syncHost{h}, Driver: h.pluginName, Ready: h.cluster.Problem, Logger: log("netsync"),
	})
	h.identity = id
	return nil
}

// settleIdentity makes the identity durable. That of a copy of another machine owns
// nothing of what the journal says.
func (h *house) settleIdentity(ctx context.Context) error {
	if h.cluster == nil {
		return nil
	}
	if !h.renewed {
		return h.journal.Commit(ctx, h.identity.Op())
	}
	h.log.Warn("the journal is of another machine: this host starts with a new id that owns no addresses", "id", h.identity.ID)
	return h.ipam.Renew(ctx, h.identity.Op(), h.identity.ID)
}

// describe is what other hosts want to know about this one.
func (h *house) describe() cluster.Host {
	return cluster.Host{Routes: h.onLink(), Address: h.underlay(), Port: cmp.Or(h.vxlanPort, overlay.DefaultPort)}
}

// underlay is the address by which other hosts reach this one: WEFT_ADVERTISE, or that
// from which this host would send to the world; the zero address if there is none now.
func (h *house) underlay() netip.Addr {
	if a, err := netip.ParseAddr(h.advertise); err == nil {
		return a.Unmap()
	}
	if h.advertise != "" {
		return h.addressOf(h.advertise)
	}
	for _, far := range []string{"192.0.2.1", "2001:db8::1"} {
		if a, err := h.kernel.Source(netip.MustParseAddr(far)); err == nil {
			return a
		}
	}
	return netip.Addr{}
}

// addressOf is the first address of a device, IPv4 before IPv6, that is good beyond
// its link.
func (h *house) addressOf(device string) netip.Addr {
	link, err := h.kernel.LinkByName(device)
	if err != nil {
		return netip.Addr{}
	}
	addrs, err := h.kernel.Addresses()
	if err != nil {
		return netip.Addr{}
	}
	var found netip.Addr
	for _, a := range addrs {
		addr := a.Prefix.Addr()
		if a.Link == link.Index && !addr.IsLinkLocalUnicast() && (!found.IsValid() || found.Is6() && addr.Is4()) {
			found = addr
		}
	}
	return found
}

func (h *house) removeHost(ctx context.Context, req admin.HostRemoval) (cluster.HostView, error) {
	if h.cluster == nil {
		return cluster.HostView{}, errAlone
	}
	return h.cluster.RemoveHost(ctx, cluster.Removal{Name: req.Name, PoweredOff: req.PoweredOff})
}

func (h *house) storeStatus(context.Context) (admin.StoreStatus, error) {
	if h.cluster == nil {
		return admin.StoreStatus{}, errAlone
	}
	st, v := h.store.Status(), h.cluster.Verdict()
	out := admin.StoreStatus{
		Endpoints: st.Endpoints, Prefix: st.Prefix, Up: st.Up, Why: st.Why, Since: st.Since, Revision: st.Rev,
		Cluster: h.cluster.UUID(), HostID: string(h.cluster.Me()), Standing: string(v.Standing), Reason: v.Why,
	}
	var problems []string
	for _, err := range []error{h.cluster.Problem(), h.ipam.Problem()} {
		if err != nil {
			problems = append(problems, err.Error())
		}
	}
	out.Problem = strings.Join(problems, "; ")
	for _, id := range h.cluster.WaitsFor() {
		out.WaitsFor = append(out.WaitsFor, h.cluster.Name(id))
	}
	return out, nil
}

func (h *house) recoverStore(ctx context.Context) (admin.StoreStatus, error) {
	if h.cluster == nil {
		return admin.StoreStatus{}, errAlone
	}
	if err := h.cluster.Recover(ctx); err != nil {
		return admin.StoreStatus{}, err
	}
	return h.storeStatus(ctx)
}
