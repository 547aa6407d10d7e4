// Package accord is how the hosts of a cluster agree on a network: the first that makes it
// founds a record, the others that name it join that.
//
//	record, err := accord.Reach(ctx, directory, accord.Terms{Network: want})
//	n.Shared = &driver.Shared{UUID: record.UUID, …}
//
// It is the one place where a new network waits for the store. What hosts must have in
// common, each kind decides itself.
package accord

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
)

// OptName is the option that says which network of the cluster is meant.
const OptName = "net"

// Option is -o net with its check.
func Option() driver.Option {
	return driver.Option{Name: OptName, Check: checkName, Help: "name of the network in the cluster, for hosts where weft cannot ask the engine"}
}

// checkName checks a name. The engine takes almost anything for one, and so must the other
// hosts.
func checkName(v string) error {
	const most = 1024
	if v == "" || len(v) > most || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
		return fmt.Errorf("use up to %d bytes of text without control characters", most)
	}
	return nil
}

// Directory is what the hosts know in common; see package directory.
type Directory interface {
	Found(ctx context.Context, n directory.Network, vni bool, wanted []uint32) (directory.Network, error)
	Join(ctx context.Context, uuid string) (directory.Network, error)
	Named(name string) (directory.Network, bool)
	Lookup(ctx context.Context, name string) (n directory.Network, ok bool, err error)
}

// Terms are what this host wants a network to be.
type Terms struct {
	// Network is what it founds if the cluster has none of that name; the UUID is new.
	Network directory.Network
	// VNI says that it needs an identifier, one of VNIs if there are any.
	VNI  bool
	VNIs []uint32
	// Fit returns the terms for joining what another host made, or an error if this host
	// cannot; nil leaves them as they are.
	Fit func(have directory.Network) (directory.Network, error)
}

// Reach returns the cluster's record of a network: a new one, or the one of the name in
// the terms. [directory.ErrNoStore] says that the store does not answer.
func Reach(ctx context.Context, d Directory, t Terms) (directory.Network, error) {
	for {
		have, ok, err := named(ctx, d, t.Network.Name)
		if err != nil {
			return t.Network, explain(err)
		}
		if ok {
			return join(ctx, d, t, have)
		}
		record, err := d.Found(ctx, t.Network, t.VNI, t.VNIs)
		if errors.Is(err, directory.ErrName) && ctx.Err() == nil {
			continue // another host was faster
		}
		return record, explain(err)
	}
}

// named finds the network of a name: what is known already needs no store, and what was
// made a moment ago is not known yet.
func named(ctx context.Context, d Directory, name string) (have directory.Network, ok bool, err error) {
	if name == "" {
		return have, false, nil
	}
	if have, ok = d.Named(name); ok {
		return have, true, nil
	}
	return d.Lookup(ctx, name)
}

// join becomes a host of a network that another one made.
func join(ctx context.Context, d Directory, t Terms, have directory.Network) (directory.Network, error) {
	want := t.Network
	if t.Fit != nil {
		var err error
		if want, err = t.Fit(have); err != nil {
			return have, err
		}
	}
	if !have.Agrees(want) {
		return have, driver.WithHint(fmt.Errorf("%w: the cluster has a network %s of mode %s with subnets %v and options %v, this one is of mode %s with %v and %v", driver.ErrConflict,
			have.Name, have.Mode, have.Subnets, have.Options, want.Mode, want.Subnets, want.Options), "use the same settings, or another name")
	}
	record, err := d.Join(ctx, have.UUID)
	return record, explain(err)
}

// explain adds what to do.
func explain(err error) error {
	if errors.Is(err, directory.ErrNoStore) {
		return driver.WithHint(fmt.Errorf("a new network of the cluster has to be known to all hosts: %w", err), "look at `weft store status`")
	}
	return err
}

// optDomain is the domain of a network's addresses among what all hosts have in common:
// with two domains, two hosts would give one address.
const optDomain = "domain"

// Domain is that of the addresses of a network of the cluster, "" for that of all that
// name none.
func Domain(r directory.Network) string { return r.Options[optDomain] }

// Common are the options that all hosts of a network must have in common, with those of
// its kind.
func Common(n driver.Network, domain string, kind map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range kind {
		if v != "" {
			out[k] = v
		}
	}
	if n.Internal {
		out["internal"] = "true"
	}
	if domain != "" {
		out[optDomain] = domain
	}
	return out
}

// Pools are the subnets of both families, sorted.
func Pools(n driver.Network) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.Subnets() {
		out = append(out, s.Pool)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return out
}
