package main

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/build"
	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/ipam"
)

// source answers the operator's commands from the daemon's parts.
func (h *house) source() admin.Source {
	return admin.Source{Status: h.status, Networks: h.networks, Endpoints: h.endpoints, Ports: h.publishedPorts, Pools: h.pools, Reset: h.reset,
		Hosts: h.hosts, RemoveHost: h.removeHost, Store: h.storeStatus, Recover: h.recoverStore,
		ClusterNetworks: h.clusterNetworks, Names: h.names, RemoveNetwork: h.removeNetwork}
}

func (h *house) status(ctx context.Context) (admin.Status, error) {
	st := admin.Status{Build: build.Read(version), PID: os.Getpid(), Started: h.started, Journal: h.flags.journal, HostID: h.hostID}
	if info, ok := h.engine.Info(); ok {
		st.Engine = &info
	}
	if h.cluster != nil {
		view, err := h.storeStatus(ctx)
		if err != nil {
			return st, err
		}
		st.Store, st.HostID, st.Sync = &view, view.HostID, h.sync.Problem()
		for _, c := range h.ipam.Conflicts() {
			st.Conflicts = append(st.Conflicts, c.Address)
		}
		clashes, err := h.clashes()
		if err != nil {
			return st, err
		}
		for _, c := range clashes {
			st.Clashes = append(st.Clashes, c.String())
		}
	}
	countForeigners(&st, h.ipam.View())
	st.Names = h.namesStatus()
	st.Direct, st.DirectWhy = h.engine.DirectSafe()
	fw := h.firewall.Status(ctx)
	st.Firewall = admin.FirewallStatus{Active: fw.Active, IPv4: fw.IPv4.Reason, IPv6: fw.IPv6.Reason, Zones: fw.Zones, Tunnels: fw.Tunnels, Shortcuts: fw.Shortcuts}
	st.Networks = len(h.driver.Networks())
	st.Troubles = h.troubles(ctx)
	if h.cluster != nil {
		st.Troubles = slices.Concat(st.Troubles, h.directory.Troubles(), h.namesync.Troubles())
	}
	h.countEndpoints(&st)
	stats := h.driver.Stats()
	st.Reconcile.Runs, st.Reconcile.Repairs, st.Reconcile.Collected = stats.Runs, stats.Repairs, stats.Collected
	st.Reconcile.LastError = stats.LastError
	return st, nil
}

// countEndpoints is what the status says of endpoints, and of those among them in which names
// should be answered.
func (h *house) countEndpoints(st *admin.Status) {
	blind := len(h.blindness()) > 0 // then all sandboxes look as if they were gone
	shared := map[string]bool{}
	for _, n := range h.driver.Networks() {
		shared[n.ID] = n.Shared != nil
	}
	nameless := map[string]bool{} // by sandbox, which may be on several networks
	for _, ep := range h.driver.Endpoints("") {
		st.Endpoints++
		switch {
		case !ep.Joined:
		case !blind && h.driver.Abandoned(ep):
			st.Gone++
			if shared[ep.Network] {
				nameless[ep.Sandbox] = true
			}
		default:
			st.Joined++
		}
	}
	if st.Names != nil && st.Names.On {
		st.Names.Gone = len(nameless)
	}
}

func (h *house) networks(context.Context) ([]admin.Network, error) {
	out := []admin.Network{}
	troubles := h.byNetwork()
	for _, n := range h.driver.Networks() {
		v := admin.Network{ID: n.ID, Mode: n.Mode, Device: n.Device, Adopted: n.Adopted, Internal: n.Internal, Parent: n.Parent, VLAN: n.VLAN, Troubles: troubles[n.ID],
			Options: n.Options, Created: n.Created, Endpoints: len(h.driver.Endpoints(n.ID)),
			Subnets: []netip.Prefix{}, Gateways: []netip.Addr{}}
		v.HostAccess = slices.Concat(h.macvlan.HostAt(n.ID), h.ipvlan.HostAt(n.ID))
		for _, s := range n.Subnets() {
			v.Subnets = append(v.Subnets, s.Pool)
			if s.Gateway.IsValid() {
				v.Gateways = append(v.Gateways, s.Gateway)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

func (h *house) endpoints(context.Context) ([]admin.Endpoint, error) {
	out := []admin.Endpoint{}
	for _, ep := range h.driver.Endpoints("") {
		out = append(out, admin.Endpoint{ID: ep.ID, Network: ep.Network, Addresses: ep.Addrs(), MAC: ep.MAC, Joined: ep.Joined,
			Sandbox: ep.Sandbox, HostLink: ep.HostLink, Attach: string(ep.Attach), AttachWhy: ep.AttachWhy, Off: ep.Off, Created: ep.Created})
	}
	return out, nil
}

func (h *house) publishedPorts(context.Context) ([]admin.Port, error) {
	out := []admin.Port{}
	for _, ep := range h.driver.Endpoints("") {
		for _, p := range ep.Ports {
			out = append(out, admin.Port{Endpoint: ep.ID, Network: ep.Network, Proto: driver.ProtoName(p.Proto), Host: p.Host,
				Container: p.Container, Proxied: p.Host.Addr().Is4() != p.Container.Addr().Is4()})
		}
	}
	return out, nil
}

func (h *house) pools(context.Context) ([]admin.Pool, error) {
	out := []admin.Pool{}
	for _, p := range h.ipam.View() {
		v := admin.Pool{ID: p.ID, Space: p.Space, Domain: p.Domain, Network: p.Network, Subnet: p.Subnet, Range: p.Range,
			Used: p.Used, Free: p.Free, Since: p.Since, Addresses: []admin.Address{}, Cooling: p.Cooling, Cluster: h.poolCluster(p.Cluster)}
		for _, a := range p.Addresses {
			v.Addresses = append(v.Addresses, admin.Address{Address: a.Address, Kind: string(a.Kind), Name: a.Name, Since: a.Since,
				Leaked: a.Leaked, Conflict: a.Conflict})
		}
		for _, f := range p.Foreigners {
			v.Foreigners = append(v.Foreigners, foreigner(f))
		}
		out = append(out, v)
	}
	return out, nil
}

// countForeigners is what the status says of addresses that machines have.
func countForeigners(st *admin.Status, pools []ipam.PoolView) {
	for _, p := range pools {
		for _, f := range p.Foreigners {
			st.Foreigners++
			if f.Own != "" {
				st.Own++
			}
			if f.Held {
				st.Twice = append(st.Twice, foreigner(f))
			}
		}
	}
}

func foreigner(f ipam.Foreigner) admin.Foreigner {
	return admin.Foreigner{Address: f.Address, MAC: f.MAC.String(), Own: f.Own, Since: f.Since, Held: f.Held}
}

// poolCluster turns ids of hosts into names.
func (h *house) poolCluster(v *ipam.ClusterView) *admin.PoolCluster {
	if v == nil {
		return nil
	}
	name := func(id ownership.Host) string {
		if h.cluster == nil {
			return string(id)
		}
		return h.cluster.Name(id)
	}
	out := &admin.PoolCluster{UUID: v.Pool, Members: []string{}, Own: v.Own, Unowned: v.Unowned, Shared: v.Shared,
		Owners: map[string]int{}, Dead: map[string]int{}, Bad: map[string]string{}}
	for _, id := range v.Members {
		out.Members = append(out.Members, name(id))
	}
	for id, n := range v.Owners {
		out.Owners[name(id)] += n
	}
	for id, n := range v.Dead {
		out.Dead[name(id)] += n
	}
	for first, err := range v.Bad {
		out.Bad[first.String()] = err.Error()
	}
	if v.Problem != nil {
		out.Problem = v.Problem.Error()
	}
	return out
}

// reset removes everything that weft made; what is left of the engine's own
// records goes with `docker network rm`.
func (h *house) reset(ctx context.Context) error {
	return errors.Join(h.driver.Reset(ctx), h.firewall.Reset(ctx), h.ipam.Reset(ctx))
}
