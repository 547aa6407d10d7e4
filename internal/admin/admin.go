// Package admin is how the operator's commands talk to the running daemon: JSON
// over a unix socket that only root can open.
//
// The daemon side is [Server]; the commands use [Dial], which finds the socket
// by itself whether weft runs as a managed plugin or as a systemd service.
//
// It has no authentication of its own: the socket's mode 0600 is it.
package admin

import (
	"net/netip"
	"time"

	"github.com/weft-net/weft/internal/build"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/engine"
)

// SocketName is the file in the plugin's socket directory. It does not end in
// .sock, so that no engine takes it for a plugin.
const SocketName = "weft.admin"

// Status is the daemon at a glance.
type Status struct {
	Build   build.Info `json:"build"`
	PID     int        `json:"pid"`
	Started time.Time  `json:"started"`
	Journal string     `json:"journal"`
	HostID  string     `json:"hostID"`
	// Store is nil for a host on its own.
	Store *StoreStatus `json:"store,omitempty"`
	// Sync says why networks of other hosts are not kept in step here; empty if they
	// are, or if there is no store.
	Sync string `json:"sync,omitempty"`
	// Engine is nil while the engine does not answer.
	Engine *engine.Info `json:"engine"`
	// Direct says whether attach=direct is in force, DirectWhy why not.
	Direct    bool   `json:"direct"`
	DirectWhy string `json:"directWhy,omitempty"`
	// Firewall says how packets pass the host's other rules.
	Firewall FirewallStatus `json:"firewall"`
	// Troubles say what is wrong with networks and only a person can mend.
	Troubles []string `json:"troubles,omitempty"`
	// Names is nil for a host on its own.
	Names *NamesStatus `json:"names,omitempty"`
	// Conflicts are addresses in use here that the cluster gives to another host.
	Conflicts []netip.Addr `json:"conflicts,omitempty"`
	// Foreigners counts the addresses of pools that machines have which are not weft's;
	// Own counts those of them that this host itself has, and Twice are those that a
	// container has here as well.
	Foreigners int         `json:"foreigners,omitempty"`
	Own        int         `json:"foreignersOwn,omitempty"`
	Twice      []Foreigner `json:"twice,omitempty"`
	// Clashes say which addresses of hosts are not one host's alone, and what to do.
	Clashes  []string `json:"clashes,omitempty"`
	Networks int      `json:"networks"`
	// Endpoints counts all, Joined those in a sandbox, and Gone those of which the sandbox
	// has gone: they are freed some minutes after the engine forgot them.
	Endpoints int `json:"endpoints"`
	Joined    int `json:"joined"`
	Gone      int `json:"gone,omitempty"`
	Reconcile struct {
		Runs      uint64 `json:"runs"`
		Repairs   uint64 `json:"repairs"`
		Collected uint64 `json:"collected"`
		LastError string `json:"lastError,omitempty"`
	} `json:"reconcile"`
}

// FirewallStatus is the firewall at a glance.
type FirewallStatus struct {
	Active bool   `json:"active"`
	IPv4   string `json:"ipv4"`
	IPv6   string `json:"ipv6"`
	// Zones says how firewalld takes weft's bridges, if it runs.
	Zones string `json:"zones,omitempty"`
	// Tunnels says whether gateways are kept out of tunnels, if there are any.
	Tunnels string `json:"tunnels,omitempty"`
	// Shortcuts says how frames between containers of different hosts go, if there are
	// any.
	Shortcuts string `json:"shortcuts,omitempty"`
}

// Network is one line of `weft networks`.
type Network struct {
	ID       string `json:"id"`
	Mode     string `json:"mode"`
	Device   string `json:"device"`
	Adopted  bool   `json:"adopted,omitempty"`
	Internal bool   `json:"internal,omitempty"`
	// Parent is the device of the host's below Device, or Device itself, and VLAN the tag
	// if Device is a sub-interface of it.
	Parent string `json:"parent,omitempty"`
	VLAN   int    `json:"vlan,omitempty"`
	// HostAccess are the addresses by which this host and the containers reach each other,
	// the best first, if the network has -o host_access=true.
	HostAccess []netip.Addr `json:"hostAccess,omitempty"`
	// Troubles say what is wrong with it and only a person can mend.
	Troubles  []string          `json:"troubles,omitempty"`
	Subnets   []netip.Prefix    `json:"subnets"`
	Gateways  []netip.Addr      `json:"gateways"`
	Options   map[string]string `json:"options,omitempty"`
	Endpoints int               `json:"endpoints"`
	Created   time.Time         `json:"created"`
}

// Endpoint is one line of `weft endpoints`.
type Endpoint struct {
	ID        string         `json:"id"`
	Network   string         `json:"network"`
	Addresses []netip.Prefix `json:"addresses"`
	MAC       string         `json:"mac"`
	Joined    bool           `json:"joined"`
	Sandbox   string         `json:"sandbox,omitempty"`
	HostLink  string         `json:"hostLink"`
	Attach    string         `json:"attach,omitempty"`
	// AttachWhy says why a wanted attach=direct was not used.
	AttachWhy string `json:"attachWhy,omitempty"`
	// Off says that it is off the network: an address of it belongs to another host.
	Off     bool      `json:"off,omitempty"`
	Created time.Time `json:"created"`
}

// Port is one line of `weft ports`.
type Port struct {
	Endpoint  string         `json:"endpoint"`
	Network   string         `json:"network"`
	Proto     string         `json:"proto"`
	Host      netip.AddrPort `json:"host"`
	Container netip.AddrPort `json:"container"`
	// Proxied says that weft itself carries the traffic, because the families
	// differ.
	Proxied bool `json:"proxied,omitempty"`
}

// Pool is one line of `weft ipam`.
type Pool struct {
	ID     string `json:"id"`
	Space  string `json:"space"`
	Domain string `json:"domain"`
	// Network is the network on the pool, "" if that is not known.
	Network string       `json:"network,omitempty"`
	Subnet  netip.Prefix `json:"subnet"`
	// Range restricts the dynamic choice; the zero prefix does not.
	Range netip.Prefix `json:"range,omitzero"`
	// Used counts the addresses in use, Free those that can be handed out.
	Used      uint64    `json:"used"`
	Free      uint64    `json:"free"`
	Since     time.Time `json:"since"`
	Addresses []Address `json:"addresses"`
	// Cooling are free addresses that were in use lately, oldest first: they are used
	// last.
	Cooling []netip.Addr `json:"cooling,omitempty"`
	// Foreigners are addresses that machines on the line have which are not weft's; they
	// are not given out.
	Foreigners []Foreigner `json:"foreigners,omitempty"`
	// Cluster is nil for a pool of this host alone.
	Cluster *PoolCluster `json:"cluster,omitempty"`
}

// PoolCluster is what the hosts of a cluster have in common of a pool.
type PoolCluster struct {
	// UUID is the pool's; its owners are below own/UUID/ in the store.
	UUID string `json:"uuid"`
	// Members are the names of hosts with a network on the pool.
	Members []string `json:"members"`
	// Owners and Dead count addresses by the name of the host, the latter of hosts
	// that were removed.
	Owners map[string]int `json:"owners"`
	Dead   map[string]int `json:"dead,omitempty"`
	// Own can be handed out here without asking anybody; Unowned nobody has.
	Own     int    `json:"own"`
	Unowned uint64 `json:"unowned"`
	// Shared are gateways and aux addresses, which no host owns.
	Shared []netip.Addr `json:"shared,omitempty"`
	// Bad are records of the store that this host cannot read.
	Bad map[string]string `json:"bad,omitempty"`
	// Problem says why this host cannot join or leave the pool as it should.
	Problem string `json:"problem,omitempty"`
}

// Address is one address of a pool.
type Address struct {
	Address netip.Addr `json:"address"`
	// Kind is gateway, aux or endpoint.
	Kind string `json:"kind"`
	// Name is the container's, where the engine tells it (29.0 and later).
	Name  string    `json:"name,omitempty"`
	Since time.Time `json:"since"`
	// Leaked says that the engine did not know it when it was last asked; Conflict
	// that the store gives it to another host.
	Leaked   bool `json:"leaked,omitempty"`
	Conflict bool `json:"conflict,omitempty"`
}

// Foreigner is one address of a pool that a machine has which is not weft's.
type Foreigner struct {
	Address netip.Addr `json:"address"`
	// MAC is the machine's.
	MAC string `json:"mac"`
	// Own is the device by which this host has it itself, "" if another machine has it.
	Own string `json:"own,omitempty"`
	// Since is when it was heard first.
	Since time.Time `json:"since"`
	// Held says that a container has the address here as well.
	Held bool `json:"held,omitempty"`
}

// StoreStatus is the store as this host sees it.
type StoreStatus struct {
	Endpoints []string `json:"endpoints"`
	// Prefix is what all keys of the cluster begin with.
	Prefix string `json:"prefix"`
	// Up says that it answers; Why not, and Since when.
	Up       bool      `json:"up"`
	Why      string    `json:"why,omitempty"`
	Since    time.Time `json:"since"`
	Revision int64     `json:"revision"`
	// Cluster is the cluster's UUID, HostID this host's id in it.
	Cluster string `json:"cluster,omitempty"`
	HostID  string `json:"hostID"`
	// Standing is what this host may do, Reason why, and Problem the whole story
	// with advice if it may not do everything.
	Standing string `json:"standing"`
	Reason   string `json:"reason,omitempty"`
	Problem  string `json:"problem,omitempty"`
	// WaitsFor are the hosts for which a recovery waits.
	WaitsFor []string `json:"waitsFor,omitempty"`
}

// ClusterNetworks is what `weft network ls` prints.
type ClusterNetworks struct {
	Networks []ClusterNetwork `json:"networks"`
	// Note says why the cluster may have others, and what to look at; empty if these are all.
	Note string `json:"note,omitempty"`
}

// ClusterNetwork is one line of `weft network ls`.
type ClusterNetwork struct {
	UUID string `json:"uuid"`
	// Name is empty while no host has told it.
	Name    string         `json:"name"`
	Mode    string         `json:"mode"`
	VNI     uint32         `json:"vni,omitempty"`
	Subnets []netip.Prefix `json:"subnets"`
	// Hosts are the names of those that have it, or have still to take it down.
	Hosts []string `json:"hosts"`
	// State is how it is on this host: present, absent, conflict, creating or removed;
	// empty if that is not known. Why is the reason, if there is one to tell.
	State string `json:"state"`
	Why   string `json:"why,omitempty"`
}

// NamesStatus is how the names of containers get on.
type NamesStatus struct {
	// On says that they are answered in containers.
	On bool `json:"on"`
	// AtAddress says that they are answered at this host's addresses instead, which are
	// Addresses.
	AtAddress bool             `json:"atAddress,omitempty"`
	Addresses []netip.AddrPort `json:"addresses,omitempty"`
	// Attended counts containers on the cluster's networks, Serving those in which weft
	// answers, Timed those of them that need some seconds to do without it.
	Attended int `json:"attended"`
	Serving  int `json:"serving"`
	Timed    int `json:"timed,omitempty"`
	// Gone counts those of Attended whose sandbox has gone.
	Gone int `json:"gone,omitempty"`
	// Dropped counts questions that were one too many for their container; in DroppedMost
	// there were most of them.
	Dropped     uint64 `json:"dropped,omitempty"`
	DroppedMost string `json:"droppedMost,omitempty"`
	// Problems say why weft does not answer, by the container, or the path of the sandbox as
	// long as that is not known, or the address; Problem why other hosts do not learn the names
	// of this one's containers.
	Problems map[string]string `json:"problems,omitempty"`
	Problem  string            `json:"problem,omitempty"`
	// Old says why names of other hosts may have changed since AsOf; empty if they are as the
	// store says now. With the zero time none are known.
	Old  string    `json:"old,omitempty"`
	AsOf time.Time `json:"asOf,omitzero"`
	// Stay say which names are of hosts that are away, and how they go.
	Stay []string `json:"stay,omitempty"`
}

// Name is one line of `weft names`.
type Name struct {
	// Network is the network's name.
	Network   string       `json:"network"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	// Hosts are the names of those that have a container of that name.
	Hosts []string `json:"hosts"`
}

// NetworkRemoval asks for the removal of a network from all hosts.
type NetworkRemoval struct {
	// Name is the network's name or UUID.
	Name string `json:"name"`
}

// Host is one line of `weft hosts`.
type Host struct {
	cluster.HostView
	// Clash says who else has its address, and what to do; empty if nobody has.
	Clash string `json:"clash,omitempty"`
}

// HostRemoval asks for the removal of a host from the cluster.
type HostRemoval struct {
	// Name is the host's name or id.
	Name string `json:"name"`
	// PoweredOff is the operator's word that the host is off.
	PoweredOff bool `json:"poweredOff"`
}
