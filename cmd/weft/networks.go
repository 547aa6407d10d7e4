package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
	"github.com/weft-net/weft/internal/netsync"
	"github.com/weft-net/weft/internal/ownership"
)

// removeTime bounds the removal of a network from the store.
const removeTime = 10 * time.Second

func networkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "network", Short: "List and remove the networks of the cluster",
		Long: "network is about the networks that the hosts of the cluster share; `weft networks` lists all of this host's.",
	}
	cmd.AddCommand(networkListCommand(), networkRemoveCommand())
	return cmd
}

func networkListCommand() *cobra.Command {
	var note string
	ask := func(c *admin.Client, ctx context.Context) ([]admin.ClusterNetwork, error) {
		all, err := c.ClusterNetworks(ctx)
		note = all.Note
		return all.Networks, err
	}
	cmd := show("ls", "List the networks of the cluster", ask, func(w io.Writer, list []admin.ClusterNetwork) {
		fmt.Fprintln(w, "NAME\tMODE\tVNI\tSUBNETS\tHOSTS\tSTATE HERE")
		for _, n := range list {
			vni := "-"
			if n.VNI != 0 {
				vni = strconv.FormatUint(uint64(n.VNI), 10)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", cmp.Or(n.Name, "-"), n.Mode, vni, words(n.Subnets), cmp.Or(strings.Join(n.Hosts, ", "), "-"), networkState(n))
		}
	})
	// Beside the list, which a program may read.
	cmd.PostRun = func(cmd *cobra.Command, _ []string) {
		if note != "" {
			cmd.PrintErrln("weft:", note)
		}
	}
	return cmd
}

func networkState(n admin.ClusterNetwork) string {
	state := cmp.Or(n.State, "unknown")
	switch {
	case n.State == string(netsync.Removed) && n.Why == "":
		return state + ": waits for " + strings.Join(n.Hosts, ", ")
	case n.Why != "":
		return state + ": " + n.Why
	}
	return state
}

func networkRemoveCommand() *cobra.Command {
	var name string
	cmd := show("rm NAME", "Remove a network from all hosts",
		func(c *admin.Client, ctx context.Context) (admin.ClusterNetwork, error) {
			return c.RemoveNetwork(ctx, admin.NetworkRemoval{Name: name})
		},
		func(w io.Writer, n admin.ClusterNetwork) {
			later := "its subnets"
			if n.VNI != 0 {
				later += " and VXLAN identifier"
			}
			fmt.Fprintf(w, "removed network %s: its name is free now, %s when all hosts have taken it down (%s)\n",
				cmp.Or(n.Name, n.UUID), later, strings.Join(n.Hosts, ", "))
		})
	cmd.Long = "rm removes a network from every host, and from those that are off as soon as they come back. It is refused while\n" +
		"containers are on it, and says where. To remove a network from this host alone, use `docker network rm`."
	cmd.Args = cobra.ExactArgs(1)
	cmd.PreRun = func(_ *cobra.Command, args []string) { name = args[0] }
	return cmd
}

func (h *house) clusterNetworks(ctx context.Context) (admin.ClusterNetworks, error) {
	if h.cluster == nil {
		return admin.ClusterNetworks{}, errAlone
	}
	out := admin.ClusterNetworks{Networks: []admin.ClusterNetwork{}}
	if err := h.directory.Unread(); err != nil {
		out.Note = err.Error() + ": these are the networks as it last told them: see `weft store status`"
		if !h.directory.Synced() {
			out.Note = err.Error() + ": these are the networks that this host has; which others there are, and who else has these, is not known: see `weft store status`"
			out.Networks = h.ownNetworks(ctx)
			return out, nil
		}
	}
	for _, v := range h.sync.Networks() {
		n := h.clusterNetwork(v.Network)
		n.State, n.Why = string(v.State), v.Why
		out.Networks = append(out.Networks, n)
	}
	return out, nil
}

// ownNetworks are the networks of the cluster that this host has by its journal.
func (h *house) ownNetworks(ctx context.Context) []admin.ClusterNetwork {
	out := []admin.ClusterNetwork{}
	networks := h.driver.Networks()
	names := h.networkNames(ctx, networks)
	for _, n := range networks {
		if n.Shared == nil {
			continue
		}
		record := directory.Network{UUID: n.Shared.UUID, Name: names[n.ID], Mode: n.Mode, VNI: n.Shared.VNI, Subnets: []netip.Prefix{}, Hosts: []ownership.Host{h.cluster.Me()}}
		for _, s := range n.Subnets() {
			record.Subnets = append(record.Subnets, s.Pool)
		}
		one := h.clusterNetwork(record)
		one.State = string(netsync.Present)
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b admin.ClusterNetwork) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UUID, b.UUID))
	})
	return out
}

func (h *house) clusterNetwork(n directory.Network) admin.ClusterNetwork {
	out := admin.ClusterNetwork{UUID: n.UUID, Name: n.Name, Mode: n.Mode, VNI: n.VNI, Subnets: n.Subnets, Hosts: []string{}}
	for _, id := range n.Hosts {
		out.Hosts = append(out.Hosts, h.cluster.Name(id))
	}
	slices.Sort(out.Hosts)
	return out
}

func (h *house) removeNetwork(ctx context.Context, req admin.NetworkRemoval) (admin.ClusterNetwork, error) {
	if h.cluster == nil {
		return admin.ClusterNetwork{}, errAlone
	}
	n, err := h.directory.Find(req.Name)
	if err != nil {
		return admin.ClusterNetwork{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	return h.clusterNetwork(n), h.directory.Remove(ctx, n.UUID)
}

// wakeSync says that the engine's networks or the cluster changed.
func (h *house) wakeSync() {
	if h.sync != nil {
		h.sync.Wake()
	}
}

// directoryChanged passes news of the directory on.
func (h *house) directoryChanged(uuid string) {
	h.overlay.Changed(uuid)
	h.namesync.Network(uuid)
	if uuid == "" {
		h.wakeSync()
	}
}

const mountinfo = "/proc/self/mountinfo"

// pluginName asks the engine what it calls this process: the name of the managed
// plugin, or that of the socket of a service.
func (h *house) pluginName(ctx context.Context) (string, error) {
	mounts, err := os.ReadFile(mountinfo)
	if err != nil {
		return "", err
	}
	if id := engine.PluginID(string(mounts)); id != "" {
		return h.engine.PluginName(ctx, id)
	}
	return strings.TrimSuffix(filepath.Base(h.flags.socket), ".sock"), nil
}

// syncHost is this host as package netsync wants it.
type syncHost struct{ h *house }

// Shared are the networks that belong to the cluster.
func (s syncHost) Shared() []netsync.Local {
	var out []netsync.Local
	listed := s.h.driver.Listed()
	for _, n := range s.h.driver.Networks() {
		if n.Shared != nil {
			out = append(out, netsync.Local{ID: n.ID, UUID: n.Shared.UUID, Endpoints: len(s.h.driver.Endpoints(n.ID)), Listed: listed[n.ID]})
		}
	}
	return out
}

// Absent are the networks that a user removed here.
func (s syncHost) Absent() []string {
	var out []string
	for uuid := range s.h.driver.Absent() {
		out = append(out, uuid)
	}
	return out
}

// ForgetAbsent takes such marks away.
func (s syncHost) ForgetAbsent(ctx context.Context, uuids ...string) error {
	return s.h.driver.ForgetAbsent(ctx, uuids...)
}

// Unmarked keeps removals of a network from leaving a mark.
func (s syncHost) Unmarked(uuid string) func() { return s.h.driver.Unmarked(uuid) }

// NoteListed remembers in which state of itself the engine listed a network.
func (s syncHost) NoteListed(ctx context.Context, id, state string) error {
	return s.h.driver.NoteListed(ctx, id, state)
}

// Rebind makes a network be another one of the cluster, whose options agree with its own.
func (s syncHost) Rebind(ctx context.Context, id string, to directory.Network) error {
	for _, n := range s.h.driver.Networks() {
		if n.ID == id && n.Shared != nil {
			return s.h.driver.Rebind(ctx, id, driver.Shared{UUID: to.UUID, VNI: to.VNI, MTU: n.Shared.MTU, Domain: n.Shared.Domain})
		}
	}
	return driver.ErrNetworkUnknown
}

// Drop takes away what the engine does not know any more: the network and its pools,
// which would be in the way of its successor.
func (s syncHost) Drop(ctx context.Context, id string, byUser bool) error {
	remove := s.h.driver.DropNetwork
	if byUser {
		remove = s.h.driver.DeleteNetwork
	}
	if err := remove(ctx, id); err != nil {
		return err
	}
	return s.h.ipam.ReleaseNetwork(ctx, id)
}
