package kernel

import (
	"errors"
	"net"
	"net/netip"
)

// Errors that callers decide by.
var (
	// ErrNotFound means that the named link, namespace or socket is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists means that a link of that name is there already.
	ErrExists = errors.New("already exists")
	// ErrNotBridge means that a link that should be a bridge is of another kind.
	ErrNotBridge = errors.New("is not a bridge")
	// ErrNotVXLAN means that a link that should be a VXLAN device is of another kind.
	ErrNotVXLAN = errors.New("is not a VXLAN device")
	// ErrVNIInUse means that another VXLAN device has the same VNI and UDP port.
	ErrVNIInUse = errors.New("is in use")
	// ErrPortInUse means that something else holds a UDP port.
	ErrPortInUse = errors.New("is taken")
	// ErrInvalid means that a value is one that no kernel takes.
	ErrInvalid = errors.New("is not valid")
	// ErrBusy means that something else uses a device in a way that admits no other.
	ErrBusy = errors.New("is busy")
	// ErrNotSupported means that this kernel has no such kind of device.
	ErrNotSupported = errors.New("is not supported by this kernel")
)

// Change is what an Ensure call did to a device.
type Change int

// What was done; the zero value is nothing.
const (
	// Kept means that everything was as it should be.
	Kept Change = iota
	// Mended means that something was changed in place.
	Mended
	// Made means that the device is new, and holds nothing that was put into
	// an older one.
	Made
)

// Group is the link group of every link that weft makes. It makes them easy to
// find (`ip link show group 2003133044`) and lets many be deleted by one message.
const Group uint32 = 0x77656674

// DoomedGroup is the link group that a link gets when it waits for deletion.
const DoomedGroup uint32 = 0x77656675

// Bridge is the fact that a bridge device exists.
type Bridge struct {
	// Name is the device's name, at most 15 bytes.
	Name string
	// Alias is the device's ifalias; it says to whom the bridge belongs.
	Alias string
	// MAC is set when the bridge is made; nil lets the kernel choose, and then it
	// follows that of the ports: each change of it drops every neighbour of the
	// bridge, permanent ones too (as setting the bridge down does). A bridge that
	// shall keep [Neighbor] entries needs one.
	MAC net.HardwareAddr
	// MTU in bytes; 0 leaves the kernel's default.
	MTU int
	// Addrs are the addresses that the bridge carries, with their prefix length.
	Addrs []netip.Prefix
	// Gateways are addresses that the bridge answers for and that no connection
	// of the host's is made from: the containers' gateway, which other hosts have
	// too. They come after Addrs, as /32 and /128 without a route of their own.
	Gateways []netip.Addr
	// NoSnooping floods multicast to every port. With snooping, a querier in one
	// container cuts off the members, and the IPv6 neighbours, whose reports it
	// did not get.
	NoSnooping bool
	// IPv6 says whether IPv6 runs on the bridge at all.
	IPv6 bool
	// RouteLocalnet lets the host reach published ports at 127.0.0.0/8.
	RouteLocalnet bool
	// Adopt means that the device belongs to somebody else: only missing
	// addresses are added, nothing else is changed.
	Adopt bool
}

// Veth is the fact that a veth pair exists with one end in a bridge.
type Veth struct {
	// Host is the name of the end in the bridge.
	Host string
	// Peer is the name of the other end.
	Peer string
	// Bridge is the name of the bridge that takes the host end.
	Bridge string
	// MTU of both ends in bytes; 0 leaves the kernel's default.
	MTU int
	// MAC is the peer's address; nil lets the kernel choose.
	MAC net.HardwareAddr
	// Isolated keeps the port from reaching other isolated ports of the bridge.
	Isolated bool
	// Hairpin lets a frame leave by the port it came from.
	Hairpin bool
	// Down keeps the host end down: nothing passes the pair, and the other end has no
	// carrier.
	Down bool
}

// Attachment is a veth pair whose peer is made inside a sandbox, addressed and up.
type Attachment struct {
	Veth
	// Sandbox is the path of the network namespace.
	Sandbox string
	// Prefix is the start of the peer's name: the lowest free number follows.
	// It is ignored when Peer is set.
	Prefix string
	// Addrs are the peer's addresses.
	Addrs []netip.Prefix
	// Sysctls are written after the link exists; IFNAME in a key stands for the
	// peer's name. Keys use dots, as sysctl(8) does.
	Sysctls []Sysctl
}

// Sysctl is one kernel setting below /proc/sys.
type Sysctl struct {
	// Key with dots, for instance net.ipv4.ip_forward.
	Key string
	// Value as written to the file.
	Value string
}

// Link is what is known of a network device.
type Link struct {
	Index  int
	Name   string
	Alias  string
	Kind   string // "bridge", "veth", "" for a physical device, …
	Master int    // index of the bridge or bond, 0 for none
	Group  uint32
	MTU    int
	Up     bool
	// Running says that what the device is connected to is up as well, and that the
	// kernel has noticed: from then on a port of a bridge forwards.
	Running bool
	// Carrier says that there is a line, or whatever stands for it.
	Carrier bool
	MAC     MAC
	// PermMAC is the address that a card was made with, the zero MAC if the kernel does
	// not tell (before 5.6) or the device was made by software.
	PermMAC MAC
	// AltNames are further names by which commands find it.
	AltNames []string
	// Parent is the index of the device below a sub-interface, a macvlan or an ipvlan
	// device, and of the other end of a pair; 0 for none in this namespace.
	Parent int
	// VLAN is the tag of a sub-interface, 0 for other devices.
	VLAN int
	// Provider says that the tag is one of 802.1ad, and not of 802.1Q: two devices with one
	// number are on two lines.
	Provider bool
	// Loopback tells the loopback device.
	Loopback bool
	// Bare says that frames have no Ethernet header: tunnels and the like.
	Bare bool
	// Isolated and Hairpin are the bridge port's flags; only set by BridgePorts.
	Isolated, Hairpin bool
}

// Route is one entry of the main routing table.
type Route struct {
	Dst     netip.Prefix // the default route is 0.0.0.0/0 or ::/0
	Gateway netip.Addr   // zero for an on-link route
	// Link is the index of the device, 0 for none: it refuses what it covers, or leaves it to
	// other tables.
	Link int
	// Ours says that it leads to a [Peer]: it tells nothing about whose subnet it is in.
	Ours bool
}

// Takes reports whether its destination is somebody's subnet. A default route's is not, nor
// are its halves, which VPNs make, nor what is led to no device.
func (r Route) Takes() bool {
	return !r.Ours && r.Link != 0 && r.Dst.Bits() > 1 && !r.Dst.Addr().IsLinkLocalUnicast() && !r.Dst.Addr().IsMulticast()
}

// Address is an address on a device.
type Address struct {
	Link   int
	Prefix netip.Prefix
	// Tentative says that nothing can use it yet: whether others have it is being found
	// out. Refused says that others have it.
	Tentative, Refused bool
	// Deprecated says that what uses it goes on, and that nothing new should use it.
	Deprecated bool
	// Passing says that it ends unless somebody renews it, as what routers announce does.
	Passing bool
	// Temporary says that the host takes another one in its place from time to time, to be
	// known less well.
	Temporary bool
}

// Flow selects conntrack entries by their original destination and by who
// answers. Name both or a single destination address: a port alone is also that
// of unrelated connections through this host.
type Flow struct {
	// Proto is the IP protocol number (6, 17, 132); 0 matches every one.
	Proto uint8
	// Dst is the original destination; an unspecified address matches every
	// address of its family. A zero port matches every port.
	Dst netip.AddrPort
	// Reply is the address that answers; the zero value matches every one.
	Reply netip.Addr
}

// Holder is who holds a local port.
type Holder struct {
	// Local is the address and port as the socket has it.
	Local netip.AddrPort
	// UID is the owner of the socket.
	UID uint32
	// Unit is the cgroup of the socket (a systemd unit, a container), or "".
	Unit string
}
