package bridged

import (
	"errors"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// EnableForwarding lets the host forward. With IPv6 forwarding the kernel stops
// to heed router advertisements, so uplinks that live from them get accept_ra=2.
func (e *Endpoints) EnableForwarding(v4, v6 bool) error {
	if v4 {
		if err := e.turnOn(kernel.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}); err != nil {
			return err
		}
	}
	const forwarding = "net.ipv6.conf.all.forwarding"
	if have, err := e.cfg.Kernel.Sysctl(forwarding); !v6 || err == nil && have == "1" {
		return nil
	}
	links, err := e.cfg.Kernel.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Loopback || l.Master != 0 || driver.Ours(l) || driver.DockerBridge(l) {
			continue
		}
		// 0 is somebody's decision; a device that went away meanwhile, or one
		// without IPv6, has no value.
		key := "net/ipv6/conf/" + l.Name + "/accept_ra"
		if have, err := e.cfg.Kernel.Sysctl(key); err != nil || have != "1" {
			continue
		}
		_, err := e.cfg.Kernel.EnsureSysctl(kernel.Sysctl{Key: key, Value: "2"})
		if err != nil && !errors.Is(err, kernel.ErrNotFound) {
			return err
		}
	}
	return e.turnOn(kernel.Sysctl{Key: forwarding, Value: "1"})
}

func (e *Endpoints) turnOn(s kernel.Sysctl) error {
	changed, err := e.cfg.Kernel.EnsureSysctl(s)
	if changed && err == nil {
		e.log.Info("the host forwards now", "sysctl", s.Key)
	}
	return err
}
