package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/config"
	"github.com/weft-net/weft/internal/firewall"
	"github.com/weft-net/weft/internal/names"
	"github.com/weft-net/weft/internal/namesync"
	"github.com/weft-net/weft/internal/ownership"
)

// openNames makes what lets containers find each other by name. A host on its own has
// the engine for that.
func (h *house) openNames(cfg config.Config, log func(string) *slog.Logger) {
	if h.cluster == nil {
		return
	}
	h.book = names.NewBook()
	sync := namesync.Config{
		Engine: h.engine, Directory: h.directory, Host: namesHost{h}, Me: h.cluster.Me, Book: h.book, Logger: log("names"),
	}
	switch cfg.Names {
	case config.NamesOn:
		h.resolver = names.New(names.Config{Book: h.book, Open: h.openSandbox, Redirect: h.redirect, Renew: h.renewRedirects, Logger: log("names")})
		sync.Service = h.resolver
	case config.NamesAddress:
		h.fronts = names.NewFronts(h.book, log("names"))
		sync.Fronts = h.fronts
	case config.NamesOff:
	}
	h.namesync = namesync.New(sync)
}

func (h *house) openSandbox(path string) (names.Sandbox, error) {
	s, err := h.kernel.OpenSandbox(path)
	if err != nil {
		return nil, err // not a Sandbox that is a nil pointer
	}
	return s, nil
}

func (h *house) redirect(r names.Redirection) (names.Redirect, error) {
	out, err := h.redirects.Open(firewall.Redirection{Namespace: r.Namespace, Resolver: r.Resolver, UDP: r.UDP, TCP: r.TCP, Pass: r.Pass})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (h *house) renewRedirects(list []names.Redirect, failed func(names.Redirect, error)) {
	var own []*firewall.Redirect
	for _, r := range list {
		own = append(own, r.(*firewall.Redirect)) //nolint:forcetypeassert // what redirect returns
	}
	h.redirects.Renew(own, func(r *firewall.Redirect, err error) { failed(r, err) })
}

// runResolver answers names where that is wanted.
func (h *house) runResolver(ctx context.Context) error {
	switch {
	case h.resolver != nil:
		return h.resolver.Run(ctx)
	case h.fronts != nil:
		return h.fronts.Run(ctx)
	}
	<-ctx.Done()
	return nil
}

// containerChanged passes news of the engine's containers on.
func (h *house) containerChanged(id string) {
	if h.namesync != nil {
		h.namesync.Container(id)
	}
}

// endpointChanged says that an endpoint came to a sandbox, or left it.
func (h *house) endpointChanged() {
	if h.namesync != nil {
		h.namesync.Wake()
	}
}

// namesHost is this host as package namesync wants it.
type namesHost struct{ h *house }

// Shared are the networks of the cluster, and who is on them.
func (s namesHost) Shared() []namesync.Network {
	places := map[string][]namesync.Place{} // by network
	for _, ep := range s.h.driver.Endpoints("") {
		if ep.Joined && ep.Sandbox != "" {
			places[ep.Network] = append(places[ep.Network], namesync.Place{Endpoint: ep.ID, Sandbox: ep.Sandbox})
		}
	}
	var out []namesync.Network
	for _, n := range s.h.driver.Networks() {
		if n.Shared == nil {
			continue
		}
		one := namesync.Network{ID: n.ID, UUID: n.Shared.UUID, Places: places[n.ID]}
		if record, ok := s.h.directory.Network(n.Shared.UUID); ok {
			one.Name = record.Name
		}
		one.Own, _ = s.h.ipam.HostAddresses(n.ID)
		out = append(out, one)
	}
	return out
}

func namesCommand() *cobra.Command {
	cmd := show("names", "List the names that containers on the cluster's networks can ask for", (*admin.Client).Names, func(w io.Writer, list []admin.Name) {
		fmt.Fprintln(w, "NETWORK\tNAME\tADDRESSES\tHOSTS")
		for _, n := range list {
			name := strings.ReplaceAll(n.Name, " ", `\x20`) // an alias could look like a whole line
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", n.Network, name, words(n.Addresses), strings.Join(n.Hosts, ", "))
		}
	})
	cmd.Long = "names lists what the containers of each network call each other, on whatever host. A name that several have\n" +
		"stands for all of their addresses. In a container, NAME.NETWORK works as well."
	return cmd
}

// names are all that the hosts told each other, by network and name.
func (h *house) names(context.Context) ([]admin.Name, error) {
	if h.cluster == nil {
		return nil, errAlone
	}
	shared := map[string]bool{}
	for _, n := range (namesHost{h}).Shared() {
		shared[n.ID] = true
	}
	list := slices.DeleteFunc(h.book.Networks(), func(n names.Network) bool { return !shared[n.ID] })
	return listNames(list, func(host string) string { return h.cluster.Name(ownership.Host(host)) }), nil
}

// listNames are the names of networks, each with all its addresses.
func listNames(networks []names.Network, hostName func(id string) string) []admin.Name {
	out := []admin.Name{}
	for _, n := range networks {
		all := map[string]*admin.Name{}
		for _, e := range n.Endpoints {
			for _, name := range e.Names {
				key := names.Fold(name) // as the resolver does
				if key == "" {
					continue
				}
				name = strings.TrimSuffix(name, ".")
				one := all[key]
				if one == nil {
					one = &admin.Name{Network: cmp.Or(n.Name, n.ID), Name: name, Addresses: []netip.Addr{}}
					all[key] = one
				}
				one.Name = min(one.Name, name)
				one.Addresses = append(one.Addresses, e.Addrs...)
				if host := hostName(e.Host); !slices.Contains(one.Hosts, host) {
					one.Hosts = append(one.Hosts, host)
				}
			}
		}
		for _, key := range slices.Sorted(maps.Keys(all)) {
			one := all[key]
			slices.SortFunc(one.Addresses, netip.Addr.Compare)
			one.Addresses = slices.Compact(one.Addresses) // of a container that has the name twice
			slices.Sort(one.Hosts)
			out = append(out, *one)
		}
	}
	slices.SortStableFunc(out, func(a, b admin.Name) int { return cmp.Compare(a.Network, b.Network) })
	return out
}

// namesStatus is how names get on, nil on a host on its own.
func (h *house) namesStatus() *admin.NamesStatus {
	if h.cluster == nil {
		return nil
	}
	out := &admin.NamesStatus{On: h.resolver != nil}
	_, reached := h.engine.Info()
	out.Problem = namesProblem(reached, h.flags.engine, h.namesync.Problem)
	if h.resolver != nil {
		st := h.resolver.Status()
		out.Attended, out.Serving, out.Timed, out.Problems = st.Attended, st.Serving, st.Timed, st.Problems
		out.Dropped, out.DroppedMost = st.Dropped, st.DroppedMost
	}
	if h.fronts != nil {
		at, problems := h.fronts.Serving()
		out.AtAddress, out.Addresses, out.Problems = true, at, map[string]string{}
		for a, why := range problems {
			out.Problems[a.String()] = why
		}
	}
	if at, current := h.directory.AsOf(); !current {
		out.AsOf, out.Old = at, "the store is down"
		if h.cluster.Up() {
			out.Old = "the store was not read since the start"
		}
	}
	out.Stay = namesThatStay(h.cluster.Hosts(), h.book.Networks(), h.cluster.Name)
	return out
}

// namesProblem is why other hosts do not know the names of this one, empty if they do. A problem
// may end between two questions for it.
func namesProblem(reached bool, socket string, problem func() error) string {
	if !reached {
		return "the names of this host's containers are not known to other hosts, or only as they were: the engine does not answer at " + socket
	}
	if err := problem(); err != nil {
		return err.Error()
	}
	return ""
}

// namesThatStay says whose names may be those of containers that are gone, and what to do.
func namesThatStay(hosts []cluster.HostView, networks []names.Network, hostName func(ownership.Host) string) []string {
	away := map[ownership.Host]bool{}
	named := map[string]int{} // how many hosts have a name
	for _, v := range hosts {
		away[v.ID] = !v.Connected && !v.Stale && !v.Removed && !v.Me
		named[v.Name]++
	}
	stay := map[ownership.Host]int{}
	for _, n := range networks {
		for _, e := range n.Endpoints {
			if id := ownership.Host(e.Host); away[id] {
				stay[id]++
			}
		}
	}
	var out []string
	for _, v := range hosts {
		if stay[v.ID] == 0 {
			continue
		}
		which := v.Name
		if which == "" || named[which] > 1 {
			which = string(v.ID) // which `weft host rm` takes as well
		}
		out = append(out, fmt.Sprintf("%d endpoints of host %s, which is not connected, keep their names: it may only have lost the store; if it is off for good, say `weft host rm --powered-off %s`",
			stay[v.ID], hostName(v.ID), which))
	}
	slices.Sort(out)
	return out
}

// printNames are the lines about names in the status.
func printNames(w io.Writer, s *admin.NamesStatus) {
	switch {
	case s == nil:
		return
	case len(s.Addresses) > 0:
		fmt.Fprintf(w, "Names:\tanswered at %s, and not in containers: WEFT_NAMES=address\n", words(s.Addresses))
	case s.AtAddress:
		fmt.Fprintln(w, "Names:\tanswered at no address yet, and not in containers: WEFT_NAMES=address")
	case !s.On:
		fmt.Fprintln(w, "Names:\tnot answered in containers: WEFT_NAMES is off")
	default:
		fmt.Fprintf(w, "Names:\tanswered in %d of %d containers%s\n", s.Serving, s.Attended, namesNotes(s))
	}
	where := "in"
	if s.AtAddress {
		where = "at"
	}
	for _, place := range slices.Sorted(maps.Keys(s.Problems)) {
		fmt.Fprintf(w, "Names:\tnot answered %s %s: %s\n", where, place, s.Problems[place])
	}
	switch {
	case s.Old != "" && s.AsOf.IsZero():
		fmt.Fprintf(w, "Names:\tthose of other hosts are not known: %s\n", s.Old)
	case s.Old != "":
		fmt.Fprintf(w, "Names:\tthose of other hosts are as of %s: %s\n", s.AsOf.Format(time.RFC3339), s.Old)
	}
	for _, text := range append(slices.Clone(s.Stay), s.Problem) {
		if text != "" {
			fmt.Fprintf(w, "Names:\t%s\n", text)
		}
	}
}

func namesNotes(s *admin.NamesStatus) string {
	var out string
	if s.Gone > 0 {
		out += fmt.Sprintf("; %d of them gone", s.Gone)
	}
	if s.Timed > 0 {
		out += fmt.Sprintf("; %d go on for up to ten seconds without weft, because the kernel is older than 5.12", s.Timed)
	}
	if s.Dropped > 0 {
		out += fmt.Sprintf("; %d questions were one too many for their container, most of them in %s", s.Dropped, s.DroppedMost)
	}
	return out
}
