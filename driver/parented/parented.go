package parented

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/kernel"
)

// Kernel is what these networks need of the kernel.
type Kernel interface {
	AddChild(c kernel.Child) error
	TryChild(c kernel.Child) error
	AttachChild(a kernel.ChildAttachment) (ifname string, err error)
	DetachChild(sandbox, alias string) error
	RetireChild(sandbox, alias string) (finish func() error, err error)
	EnsureChild(s kernel.ChildState) error
	ParentOf(sandbox, alias string) (index int, err error)
	Supports(kind string) error
	EnsureShim(s kernel.Shim) error
	AddPeers(s kernel.Shim) error
	CheckShim(s kernel.Shim) (difference string, err error)
	RemovePeers(shim string, addrs []netip.Addr) error
	EnsureHosts(sandbox, alias string, hosts kernel.Hosts) error
	Announce(list []kernel.Neighbor) error
	DeleteLink(name string) error
	DeleteDoomed() error
	SandboxExists(path string) bool
	LinkByName(name string) (kernel.Link, error)
	Links() ([]kernel.Link, error)
	Addresses() ([]kernel.Address, error)
	Routes() ([]kernel.Route, error)
	RouteMatch(to netip.Addr) (kernel.Route, error)
	Sysctl(key string) (string, error)
	EnsureSysctl(s kernel.Sysctl) (changed bool, err error)
	Wireless(name string) (bool, error)
}

// Later does what no answer waits for.
type Later interface {
	Delete(link string) error
}

// Addresses gives this host addresses of its own on its networks.
type Addresses interface {
	// Gives says whether it has a pool for a subnet of a network.
	Gives(network string, subnet netip.Prefix) bool
	// HostAddresses returns those that this host has, and those of them that are another
	// host's by now; TakeHostAddresses takes missing ones, and others for the lost.
	HostAddresses(network string) (own, lost []netip.Prefix)
	TakeHostAddresses(ctx context.Context, network string) ([]netip.Prefix, error)
	// ReleaseHostAddresses gives them back: the network is on another line by now.
	ReleaseHostAddresses(ctx context.Context, network string) error
}

// Directory is what the hosts know in common; see package directory.
type Directory interface {
	accord.Directory
	Attend(n directory.Network)
	Forsake(uuid string)
	Publish(uuid string, e directory.Endpoint)
	Withdraw(uuid, id string)
}

// Config is what [New] takes. Kernel, Later, Parents, Addresses and Seed are required.
type Config struct {
	Kernel  Kernel
	Later   Later
	Parents *Parents
	// Addresses is for hosts that have none on the line of their containers.
	Addresses Addresses
	// Seed makes MAC addresses differ between hosts that share nothing.
	Seed string
	// Directory is nil on a host that shares no store: then networks are its own.
	Directory Directory
	// Shared returns the domain of the addresses of a new network's subnet, "" for that of
	// all that name none; an error if the hosts do not share them. It is required with a
	// Directory.
	Shared func(network string, subnet netip.Prefix) (domain string, err error)
	// DirectSafe says whether the engine bears attach=direct, and if not, why; nil means
	// that nobody knows, so no.
	DirectSafe func() (ok bool, why string)
	Logger     *slog.Logger
}

// A Sort is what tells one kind from the other.
type Sort struct {
	// Kind is the kernel's name for the devices, and the mode of the networks.
	Kind kernel.ChildKind
	// Options are those of this kind alone; Style reads mode and flag of the devices from
	// those of a network.
	Options []driver.Option
	Style   func(options map[string]string) (mode, flag string)
	// Clash says why two networks cannot share one parent; nil if they can.
	Clash func(n, other driver.Network) error
	// Access says why the host itself cannot be on the line of a network; nil if it can.
	Access func(n driver.Network) error
	// OwnMAC says that each container has a MAC address of its own.
	OwnMAC bool
	// Alone says that a network's parent bears one container only, with the parent's MAC
	// address.
	Alone func(n driver.Network) bool
	// Routed says that the host routes for the containers: there is no gateway to ask, and
	// nobody asks for their MAC addresses.
	Routed func(n driver.Network) bool
}

// A Kind makes networks on parents. [Kind.Run] has to run.
type Kind struct {
	cfg  Config
	sort Sort
	log  *slog.Logger
	wake chan struct{}

	mu sync.Mutex
	// off says whether an endpoint was taken off its network, as far as this process knows;
	// lost are those that have no device any more in a sandbox that is there; by id.
	off, lost map[string]bool
	// apart are those that are on another device than their network by now: its index, by
	// id, 0 for none.
	apart map[string]int
	// moving are endpoints whose device the engine is about to move; by id.
	moving map[string]moving
	// seats are the joined endpoints with MAC addresses of their own; by id.
	seats map[string]seat
	// ended says that Run has: whoever comes later deletes by itself.
	ended bool
	// finish deletes devices that were taken out of service.
	finish   []func() error
	retiring sync.Mutex // held while they are deleted
	// attended are the networks of the cluster, by UUID.
	attended map[string]bool

	access *accesses
}

var (
	_ driver.Kind     = (*Kind)(nil)
	_ driver.Watcher  = (*Kind)(nil)
	_ driver.Portless = (*Kind)(nil)
	_ driver.Rebinder = (*Kind)(nil)
)

// New makes a kind of that sort.
func New(cfg Config, sort Sort) *Kind {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.DirectSafe == nil {
		cfg.DirectSafe = func() (bool, string) { return false, "nothing is known of the engine" }
	}
	return &Kind{cfg: cfg, sort: sort, log: cfg.Logger, wake: make(chan struct{}, 1),
		off: map[string]bool{}, lost: map[string]bool{}, apart: map[string]int{}, moving: map[string]moving{}, seats: map[string]seat{}, attended: map[string]bool{}, access: newAccesses()}
}

// SkipGateway says that no gateway has to be reserved: it is a router of the line's, and
// has its address from somebody else. One that the user names is asked for all the same.
func (k *Kind) SkipGateway(map[string]string, bool) (v4, v6 bool) { return true, true }

// Facts is empty: the firewall has no part in the line.
func (k *Kind) Facts(driver.Network, []driver.Endpoint) firewall.Facts { return firewall.Facts{} }

// Portless marks the kind: see [Kind.Publish].
func (k *Kind) Portless() {}

// Unpublish closes nothing: there are no ports.
func (k *Kind) Unpublish(context.Context, driver.Network, driver.Endpoint) error { return nil }
