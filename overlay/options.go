package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/kernel"
)

// Options of overlay networks, the built-in driver's first.
const (
	optVNI       = "com.docker.network.driver.overlay.vxlanid_list"
	optEncrypted = "encrypted"
	optName      = "net"
)

// Options lists what an overlay network takes.
func (k *Kind) Options() []driver.Option {
	return append([]driver.Option{
		{Name: optVNI, Check: vniList, Help: "VXLAN identifiers to choose from, comma-separated"},
		{Name: optEncrypted, Check: notEncrypted, Help: "not supported"},
		{Name: optName, Check: networkName, Help: "name of the network in the cluster, for hosts where weft cannot ask the engine"},
	}, bridged.Options()...)
}

func notEncrypted(string) error {
	return errors.New("weft does not encrypt: put WireGuard or IPsec below the hosts' own network, or leave it out")
}

// vniList checks the numbers as the built-in driver does.
func vniList(v string) error {
	_, err := parseVNIs(v)
	return err
}

func parseVNIs(v string) ([]uint32, error) {
	if v == "" {
		return nil, nil
	}
	var out []uint32
	for text := range strings.SplitSeq(v, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
		if err != nil || n == 0 || n > kernel.MaxVNI {
			return nil, fmt.Errorf("invalid vxlan id value %q passed: use 1 to %d", text, kernel.MaxVNI)
		}
		out = append(out, uint32(n))
	}
	return out, nil
}

// networkName checks a name as the engine does.
func networkName(v string) error {
	good := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.-", r)
	}
	const most = 128
	if v == "" || len(v) > most || strings.ContainsFunc(v, func(r rune) bool { return !good(r) }) || strings.ContainsRune("_.-", rune(v[0])) {
		return errors.New("use letters, digits, '_', '.' and '-', beginning with a letter or a digit")
	}
	return nil
}

// settings are those of a network whose options have passed their checks.
func settings(n driver.Network) bridged.Settings {
	s := bridged.Parse(n.Options)
	if n.Shared != nil {
		s.MTU = n.Shared.MTU
	}
	return s
}

// commonDomain is the domain of a network's addresses among what all hosts have in common:
// with two domains, two hosts would give one address.
const commonDomain = "domain"

// Domain is that of the addresses of a network of the cluster, "" for that of all that
// name none.
func Domain(r directory.Network) string { return r.Options[commonDomain] }

// common are the options that all hosts of a network must have in common. How a host
// attaches endpoints and publishes ports is its own affair.
func common(n driver.Network, mtu int, domain string) map[string]string {
	out := map[string]string{bridged.OptMTU: strconv.Itoa(mtu)}
	if n.Internal {
		out["internal"] = "true"
	}
	if domain != "" {
		out[commonDomain] = domain
	}
	return out
}

// pools are the subnets of both families, sorted.
func pools(n driver.Network) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.Subnets() {
		out = append(out, s.Pool)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return strings.Compare(a.String(), b.String())
	})
	return out
}
