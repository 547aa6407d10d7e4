package firewall

import (
	"fmt"
	"net/netip"
	"strings"
)

// Mode says how packets for containers of one network and family are treated
// when they come from outside of the network.
type Mode int

// The gateway modes of Docker's bridge driver.
const (
	// ModeNAT lets in what was published, translated; the way out is masqueraded.
	ModeNAT Mode = iota
	// ModeNATUnprotected lets everything in; the way out is masqueraded.
	ModeNATUnprotected
	// ModeRouted lets in ICMP and published ports, untranslated both ways.
	ModeRouted
	// ModeIsolated lets nothing in and has no way out.
	ModeIsolated
)

// Proto is the transport protocol of a port, by its IP protocol number.
type Proto uint8

// The protocols that can be published.
const (
	TCP  Proto = 6
	UDP  Proto = 17
	SCTP Proto = 132
)

// String returns the protocol's name as Docker writes it.
func (p Proto) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("proto%d", uint8(p))
}

// A Family is one subnet of a network.
type Family struct {
	Subnet netip.Prefix
	Mode   Mode
	// SNAT is the source address of packets that leave the host; the zero Addr
	// means that of the interface they leave by. Needs Network.Masquerade.
	SNAT netip.Addr
}

// A Network is what the firewall must know about one bridge.
type Network struct {
	ID, Bridge string
	// IPv4 and IPv6 are the subnets of each family; none means that packets of
	// this family neither enter nor leave. All subnets of a family share its mode.
	IPv4, IPv6 []Family
	// Internal cuts the network off from everything but itself and the host.
	Internal bool
	// ICC lets containers of this network reach each other's unpublished ports.
	ICC bool
	// Masquerade translates sources on the way out, in the modes that have NAT.
	Masquerade bool
	// Trusted are host interfaces from which Open ports are reachable directly.
	Trusted []string
	// Tunnel is the VXLAN device in the bridge by which the network reaches other
	// hosts; empty without one. It need not exist yet.
	Tunnel string
	// Gateways are addresses that every host of the network has. ARP and neighbour
	// discovery about them do not pass the tunnel. Without one they mean nothing.
	Gateways []netip.Addr
}

// A Port is one published port of one endpoint.
type Port struct {
	// Endpoint is the identity by which RemovePorts removes it.
	Endpoint string
	// Bridge is that of the endpoint's network.
	Bridge string
	Proto  Proto
	// Host is where clients connect; an unspecified address means every local
	// address of its family, 127.0.0.0/8 included and ::1 excepted.
	Host netip.AddrPort
	// Container is where they end up, in the family of Host.
	Container netip.AddrPort
}

// An Open is a published container port that is reachable without translation
// in routed mode and from trusted interfaces.
type Open struct {
	Endpoint  string
	Container netip.AddrPort
	Proto     Proto
}

// Facts are everything that the firewall has to know.
type Facts struct {
	Networks []Network
	Ports    []Port
	Open     []Open
	// Uplinks are the interfaces by which containers reach the outside.
	Uplinks []string
}

func (n Network) validate() error {
	if n.ID == "" {
		return fmt.Errorf("network on bridge %q: %w: it has no ID", n.Bridge, ErrInvalid)
	}
	for _, name := range append([]string{n.Bridge}, n.Trusted...) {
		if err := validateInterface(name); err != nil {
			return fmt.Errorf("network %s: %w", n.ID, err)
		}
	}
	if err := n.validateTunnel(); err != nil {
		return fmt.Errorf("network %s: %w", n.ID, err)
	}
	for _, v6 := range []bool{false, true} {
		for i, f := range n.family(v6) {
			if err := f.validate(v6); err != nil {
				return fmt.Errorf("network %s: %w", n.ID, err)
			}
			if f.Mode != n.family(v6)[0].Mode {
				return fmt.Errorf("network %s: subnet %d: %w: subnets of one family have one mode", n.ID, i, ErrInvalid)
			}
		}
	}
	return nil
}

func (n Network) validateTunnel() error {
	if n.Tunnel == "" {
		return nil
	}
	if err := validateInterface(n.Tunnel); err != nil {
		return err
	}
	if n.Tunnel == n.Bridge {
		return fmt.Errorf("tunnel %s: %w: it is the bridge, name the VXLAN device", n.Tunnel, ErrInvalid)
	}
	for _, g := range n.Gateways {
		if !g.IsValid() || !n.contains(g) {
			return fmt.Errorf("gateway %v: %w: it is in no subnet of the network", g, ErrInvalid)
		}
	}
	return nil
}

// family returns the subnets of one family.
func (n Network) family(v6 bool) []Family {
	if v6 {
		return n.IPv6
	}
	return n.IPv4
}

// masquerades says whether sources of a subnet are translated on the way out.
func (n Network) masquerades(f Family) bool {
	return n.Masquerade && !n.Internal && f.Mode <= ModeNATUnprotected
}

// contains says whether the address lies in a subnet of the network.
func (n Network) contains(a netip.Addr) bool {
	for _, f := range n.family(a.Is6()) {
		if f.Subnet.Contains(a) {
			return true
		}
	}
	return false
}

func (f Family) validate(v6 bool) error {
	switch {
	case !f.Subnet.IsValid() || f.Subnet.Addr().Is4In6() || f.Subnet.Addr().Is6() != v6:
		return fmt.Errorf("subnet %v: %w: not a prefix of its family", f.Subnet, ErrInvalid)
	case f.SNAT.IsValid() && (f.SNAT.Is4In6() || f.SNAT.Is6() != v6):
		return fmt.Errorf("source address %v of subnet %v: %w: not an address of its family", f.SNAT, f.Subnet, ErrInvalid)
	case f.Mode < ModeNAT || f.Mode > ModeIsolated:
		return fmt.Errorf("mode %d of subnet %v: %w", f.Mode, f.Subnet, ErrInvalid)
	}
	return nil
}

func (p Port) validate() error {
	switch {
	case p.Endpoint == "":
		return fmt.Errorf("port %v: %w: it has no endpoint", p.Host, ErrInvalid)
	case p.Host.Addr().Is6() != p.Container.Addr().Is6():
		return fmt.Errorf("port %v to %v: %w: the families differ", p.Host, p.Container, ErrInvalid)
	case !p.Host.IsValid() || p.Host.Port() == 0 || p.Host.Addr().Is4In6():
		return fmt.Errorf("host address %v: %w", p.Host, ErrInvalid)
	}
	return Open{Endpoint: p.Endpoint, Container: p.Container, Proto: p.Proto}.validate()
}

func (o Open) validate() error {
	switch {
	case o.Endpoint == "":
		return fmt.Errorf("open port %v: %w: it has no endpoint", o.Container, ErrInvalid)
	case o.Proto != TCP && o.Proto != UDP && o.Proto != SCTP:
		return fmt.Errorf("port %v: protocol %d: %w", o.Container, o.Proto, ErrInvalid)
	case !o.Container.IsValid() || o.Container.Port() == 0 || o.Container.Addr().IsUnspecified() || o.Container.Addr().Is4In6():
		return fmt.Errorf("container address %v: %w", o.Container, ErrInvalid)
	}
	return nil
}

// validateInterface accepts what the kernel accepts as the name of an interface,
// less what would need quoting in an nft text.
func validateInterface(name string) error {
	if name == "" || len(name) > 15 || strings.ContainsAny(name, " \t\n\r\v\f\"\\/*") {
		return fmt.Errorf("interface %q: %w: not an interface name", name, ErrInvalid)
	}
	return nil
}
