package directory

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-net/weft/internal/ownership"
	"github.com/weft-net/weft/internal/store"
)

// recordVersion is the version of the records that this package writes.
const recordVersion = 1

// Keys of the store.
const (
	prefixNets      = "net/"
	prefixNames     = "name/"
	prefixVNIs      = "vni/"
	prefixEndpoints = "ep/"
)

// Errors of the directory.
var (
	// ErrNoStore says that the cluster cannot agree on a network now.
	ErrNoStore = errors.New("the store is needed for this")
	// ErrVNI says that a VXLAN identifier is another network's, or that none is left.
	ErrVNI = errors.New("VXLAN identifier taken")
	// ErrName says that a name is that of another network.
	ErrName = errors.New("name taken")
	// ErrUnknown says that there is no such network.
	ErrUnknown = errors.New("unknown network")
	// ErrUsed says that a network still has endpoints.
	ErrUsed = errors.New("the network is in use")
)

// A Network is one network of the cluster.
type Network struct {
	// UUID is its identity: 32 hexadecimal digits.
	UUID string `json:"uuid"`
	// Name is how engines call it; empty until that is known.
	Name string `json:"name,omitempty"`
	// Mode is the name of its kind.
	Mode string `json:"mode"`
	// VNI tells its frames apart on the underlay: 1 to 1<<24-1, or 0 for a kind that
	// has none.
	VNI uint32 `json:"vni,omitempty"`
	// Subnets are those of both families, sorted.
	Subnets []netip.Prefix `json:"subnets"`
	// Options are what all hosts must have in common of its options.
	Options map[string]string `json:"options,omitempty"`
	// Spec is all that another host needs to create it; empty until its name is known.
	// The directory does not look into it.
	Spec json.RawMessage `json:"spec,omitempty"`
	// Hosts have the network; sorted.
	Hosts []ownership.Host `json:"hosts"`
	// Removed says that an operator removed it everywhere, and that Hosts have to take
	// it down.
	Removed bool `json:"removed,omitempty"`
}

// Agrees reports whether two records can be one network: mode, subnets and options.
func (n Network) Agrees(o Network) bool {
	return n.Mode == o.Mode && slices.Equal(n.Subnets, o.Subnets) && maps.Equal(n.Options, o.Options)
}

// Has reports whether a host has the network.
func (n Network) Has(h ownership.Host) bool { return slices.Contains(n.Hosts, h) }

// with and without return the network with another set of hosts.
func (n Network) with(h ownership.Host) Network {
	if !n.Has(h) {
		n.Hosts = append(slices.Clone(n.Hosts), h)
		slices.Sort(n.Hosts)
	}
	return n
}

func (n Network) without(h ownership.Host) Network {
	n.Hosts = slices.DeleteFunc(slices.Clone(n.Hosts), func(x ownership.Host) bool { return x == h })
	return n
}

// An Endpoint is one container's place on a network.
type Endpoint struct {
	// ID is the engine's, or any other name that its host chose for it.
	ID string `json:"-"`
	// MAC is its hardware address, in colon notation.
	MAC string `json:"mac"`
	// Addrs are its addresses.
	Addrs []netip.Addr `json:"addrs"`
	// Own marks an address of the host itself.
	Own bool `json:"own,omitempty"`
	// Names are what containers call it; see package names.
	Names []string `json:"names,omitempty"`

	// Host has it, and is reached at VTEP, which is the zero address if that is not
	// known. Rev orders records: of two that name one address the higher counts.
	Host ownership.Host `json:"-"`
	VTEP netip.Addr     `json:"-"`
	Rev  int64          `json:"-"`
}

// same reports whether two are one host's, and say the same.
func (e Endpoint) same(o Endpoint) bool {
	return e.ID == o.ID && e.MAC == o.MAC && e.Own == o.Own && slices.Equal(e.Addrs, o.Addrs) && slices.Equal(e.Names, o.Names)
}

// versioned adds the version to a record.
func versioned[T any](v T) []byte {
	b, err := json.Marshal(v)
	if err != nil || len(b) < 2 || b[0] != '{' {
		panic(fmt.Sprintf("a record of plain fields does not encode: %v", err)) // it cannot happen
	}
	head := fmt.Sprintf(`{"v":%d`, recordVersion)
	if len(b) > 2 {
		head += ","
	}
	return append([]byte(head), b[1:]...)
}

// decode reads a record; an absent one is the zero value.
func decode[T any](kv store.KV) (T, error) { return ownership.DecodeRecord[T](kv, recordVersion) }

// pointer is the record of a name or a number.
type pointer struct {
	UUID string `json:"uuid"`
}

func netKey(uuid string) string { return prefixNets + uuid }

func nameKey(name string) string { return prefixNames + name }

func vniKey(vni uint32) string { return prefixVNIs + strconv.FormatUint(uint64(vni), 10) }

// hostKeys is where one host's endpoints of a network are.
func hostKeys(uuid string, h ownership.Host) string {
	return prefixEndpoints + uuid + "/" + string(h) + "/"
}

// parseEndpoint reads the record of an endpoint.
func parseEndpoint(kv store.KV) (Endpoint, error) {
	parts := strings.Split(strings.TrimPrefix(kv.Key, prefixEndpoints), "/")
	const fields = 3
	if len(parts) != fields {
		return Endpoint{}, fmt.Errorf("%s: %w: the key is none of an endpoint", kv.Key, ownership.ErrDamaged)
	}
	e, err := decode[Endpoint](kv)
	e.Host, e.ID, e.Rev = ownership.Host(parts[1]), parts[2], kv.Rev
	return e, err
}
