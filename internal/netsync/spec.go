package netsync

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/ownership"
)

// specVersion is the version of the descriptions that this package writes.
const specVersion = 1

// optName is the option of the driver, and of the IPAM driver, that says which network of
// the cluster is meant. The description is that network's and names its subnets.
const optName = "net"

// spec is all that an engine has to be told of a network but for the names of the
// drivers, which are each host's own.
type spec struct {
	V           int                 `json:"v"`
	Labels      map[string]string   `json:"labels,omitempty"`
	Options     map[string]string   `json:"options,omitempty"`
	Internal    bool                `json:"internal,omitempty"`
	Attachable  bool                `json:"attachable,omitempty"`
	EnableIPv4  *bool               `json:"enableIPv4,omitempty"`
	EnableIPv6  bool                `json:"enableIPv6,omitempty"`
	IPAMOptions map[string]string   `json:"ipamOptions,omitempty"`
	Subnets     []engine.IPAMConfig `json:"subnets,omitempty"`
}

// describe is what other hosts need to create the network.
func describe(n engine.Network) ([]byte, error) {
	s := spec{V: specVersion, Labels: n.Labels, Options: maps.Clone(n.Options), Internal: n.Internal, Attachable: n.Attachable,
		EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6, IPAMOptions: maps.Clone(n.IPAM.Options)}
	delete(s.Options, optName)
	delete(s.IPAMOptions, optName)
	for _, c := range n.IPAM.Config {
		// Some engines list what an IPAM driver chose with the prefix length.
		c.Gateway, _, _ = strings.Cut(c.Gateway, "/")
		s.Subnets = append(s.Subnets, c)
	}
	return json.Marshal(s)
}

// network is the network of a description, as the engine of this host is to be told.
func network(name string, text []byte, driver string) (engine.Network, error) {
	if err := ownership.CheckVersion(text, specVersion); err != nil {
		return engine.Network{}, fmt.Errorf("description of network %s: %w", name, err)
	}
	var s spec
	if err := json.Unmarshal(text, &s); err != nil {
		return engine.Network{}, fmt.Errorf("description of network %s: %w", name, err)
	}
	n := engine.Network{Name: name, Driver: driver, Labels: s.Labels, Options: map[string]string{}, Internal: s.Internal, Attachable: s.Attachable,
		EnableIPv4: s.EnableIPv4, EnableIPv6: s.EnableIPv6,
		IPAM: engine.IPAM{Driver: driver, Options: s.IPAMOptions, Config: s.Subnets}}
	maps.Copy(n.Options, s.Options)
	n.Options[optName] = name
	return n, nil
}
