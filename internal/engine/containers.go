package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// ErrNoContainer means that the engine has no container of that id.
var ErrNoContainer = errors.New("no such container")

// Container is what other containers may want to know of one.
type Container struct {
	// ID is the whole id, Name has no slash, Hostname is as the container sees it.
	ID, Name, Hostname string
	// Sandbox is the path of its network namespace, as Join gets it.
	Sandbox string
	// Running says that it has one.
	Running bool
	// Attachments are its networks, by name.
	Attachments []Attachment
}

// Attachment is a container's place on a network.
type Attachment struct {
	// Network and Endpoint are ids, NetworkName is the name.
	Network, NetworkName, Endpoint string
	// Aliases are names that only this network knows. Engines before 25 have the
	// container's short id among them.
	Aliases []string
	// Links are those of --link: "container:alias", or "container".
	Links []string
	Addrs []netip.Addr
	// GatewayPriority is that of `docker network connect --gw-priority` (engine ≥ 28).
	GatewayPriority int
	// Gateways counts the families for which the network has one.
	Gateways int
}

// Running asks for the ids of all containers that run.
func (e *Engine) Running(ctx context.Context) ([]string, error) {
	var list []struct {
		ID string `json:"Id"`
	}
	if err := e.get(ctx, "/containers/json", &list); err != nil {
		return nil, err
	}
	var out []string
	for _, c := range list {
		out = append(out, c.ID)
	}
	return out, nil
}

// containerDoc is the part of an inspection that [Container] is made of.
type containerDoc struct {
	ID     string `json:"Id"`
	Name   string
	State  struct{ Running bool }
	Config struct{ Hostname string }

	NetworkSettings struct {
		SandboxKey string
		Networks   map[string]struct {
			NetworkID, EndpointID        string
			Aliases, Links               []string
			IPAddress, GlobalIPv6Address string
			Gateway, IPv6Gateway         string
			GwPriority                   int
		}
	}
}

// Container asks for one container, [ErrNoContainer] if it is gone. The engine answers
// when it has ended what it does with it, such as starting it.
func (e *Engine) Container(ctx context.Context, id string) (Container, error) {
	var doc containerDoc
	err := e.do(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", nil, &doc)
	if errors.Is(err, errGone) {
		return Container{}, fmt.Errorf("%w: %s", ErrNoContainer, id)
	}
	if err != nil {
		return Container{}, err
	}
	c := Container{ID: doc.ID, Name: strings.TrimPrefix(doc.Name, "/"), Hostname: doc.Config.Hostname,
		Sandbox: doc.NetworkSettings.SandboxKey, Running: doc.State.Running}
	for name, n := range doc.NetworkSettings.Networks {
		a := Attachment{Network: n.NetworkID, NetworkName: name, Endpoint: n.EndpointID,
			Aliases: n.Aliases, Links: n.Links, GatewayPriority: n.GwPriority}
		for _, text := range []string{n.IPAddress, n.GlobalIPv6Address} {
			if addr, err := netip.ParseAddr(text); err == nil {
				a.Addrs = append(a.Addrs, addr)
			}
		}
		for _, gateway := range []string{n.Gateway, n.IPv6Gateway} {
			if gateway != "" {
				a.Gateways++
			}
		}
		if a.Endpoint != "" { // it is on the network only while it runs
			c.Attachments = append(c.Attachments, a)
		}
	}
	slices.SortFunc(c.Attachments, func(a, b Attachment) int { return strings.Compare(a.NetworkName, b.NetworkName) })
	return c, nil
}
