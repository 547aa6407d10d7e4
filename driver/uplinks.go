package driver

import (
	"context"
	"slices"
	"strings"

	"github.com/weft-net/weft/internal/kernel"
)

// Uplinks are the devices by which containers may leave the host: every device
// that carries a route over a gateway, and every other device with an address
// that is not a bridge of containers. Docker's own bridges are never among
// them, nor are ports of a bridge, nor weft's links.
func Uplinks(a Actual, routes []kernel.Route) []string {
	viaGateway := map[int]bool{}
	for _, r := range routes {
		if r.Gateway.IsValid() {
			viaGateway[r.Link] = true
		}
	}
	var out []string
	for name, l := range a.Links {
		switch {
		case l.Loopback, l.Master != 0, Ours(l), DockerBridge(l):
		case viaGateway[l.Index]:
			out = append(out, name)
		case l.Kind != "bridge" && hasGlobalAddress(a.Addresses[name]):
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// DockerBridge knows the engine's bridges by their names.
func DockerBridge(l kernel.Link) bool {
	if l.Kind != "bridge" {
		return false
	}
	id, isNetwork := strings.CutPrefix(l.Name, "br-")
	isNetwork = isNetwork && len(id) == 12 && strings.Trim(id, "0123456789abcdef") == ""
	return isNetwork || l.Name == "docker0" || l.Name == "docker_gwbridge"
}

func hasGlobalAddress(addrs []kernel.Address) bool {
	return slices.ContainsFunc(addrs, func(a kernel.Address) bool {
		ip := a.Prefix.Addr()
		return !ip.IsLinkLocalUnicast() && !ip.IsLoopback()
	})
}

func (d *Driver) updateUplinks(ctx context.Context, actual Actual) error {
	routes, err := d.cfg.Kernel.Routes()
	if err != nil {
		return err
	}
	return d.cfg.Firewall.SetUplinks(ctx, Uplinks(actual, routes))
}
