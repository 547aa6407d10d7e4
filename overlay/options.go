package overlay

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/driver/accord"
	"github.com/weft-net/weft/driver/bridged"
	"github.com/weft-net/weft/internal/kernel"
)

// Options of overlay networks, the built-in driver's first.
const (
	optVNI       = "com.docker.network.driver.overlay.vxlanid_list"
	optEncrypted = "encrypted"
)

// Options lists what an overlay network takes.
func (k *Kind) Options() []driver.Option {
	return append([]driver.Option{
		{Name: optVNI, Check: vniList, Help: "VXLAN identifiers to choose from, comma-separated"},
		{Name: optEncrypted, Check: notEncrypted, Help: "not supported"},
		accord.Option(),
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

// settings are those of a network whose options have passed their checks.
func settings(n driver.Network) bridged.Settings {
	s := bridged.Parse(n.Options)
	if n.Shared != nil {
		s.MTU = n.Shared.MTU
	}
	return s
}

// common are the options that all hosts of a network must have in common. How a host
// attaches endpoints and publishes ports is its own affair.
func common(n driver.Network, mtu int, domain string) map[string]string {
	kind := map[string]string{bridged.OptMTU: strconv.Itoa(mtu)}
	for _, s := range n.Subnets() {
		// Engines before 28 ask for the gateway of an internal network, which none has.
		if s.Gateway.IsValid() && !n.Internal {
			kind["gateway of "+s.Pool.String()] = s.Gateway.String()
		}
	}
	return accord.Common(n, domain, kind)
}
