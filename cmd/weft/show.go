package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/build"
)

// show makes a command that asks the daemon and prints a table, or JSON.
func show[T any](use, short string, ask func(*admin.Client, context.Context) (T, error), print func(io.Writer, T)) *cobra.Command {
	var asJSON bool
	var socket string
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := admin.Dial(cmd.Context(), socket)
		if err != nil {
			return err
		}
		v, err := ask(c, cmd.Context())
		if err != nil {
			return err
		}
		return output(cmd.OutOrStdout(), asJSON, v, print)
	}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&socket, "socket", "", "admin socket (found by itself)")
	return cmd
}

func output[T any](w io.Writer, asJSON bool, v T, print func(io.Writer, T)) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	makePrintable(reflect.ValueOf(&v))
	tab := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	print(tab, v)
	return tab.Flush()
}

func statusCommand() *cobra.Command {
	return show("status", "Show the daemon of this host at a glance", (*admin.Client).Status, func(w io.Writer, s admin.Status) {
		engine := "does not answer"
		if s.Engine != nil {
			engine = s.Engine.Version
			if s.Engine.LiveRestore {
				engine += ", live-restore"
			}
		}
		direct := "available"
		if !s.Direct {
			direct = "not used: " + s.DirectWhy
		}
		fmt.Fprintf(w, "Version:\t%s\n", s.Build.Version)
		fmt.Fprintf(w, "Running:\tpid %d since %s\n", s.PID, s.Started.Format(time.RFC3339))
		fmt.Fprintf(w, "Engine:\t%s\n", engine)
		printCluster(w, s.Store)
		if s.Sync != "" {
			fmt.Fprintf(w, "Network sync:\tdoes nothing: %s\n", s.Sync)
		}
		if len(s.Conflicts) > 0 {
			fmt.Fprintf(w, "CONFLICTS:\t%s: in use here, and given to another host: restart what has them; until then weft keeps its endpoints with them off the network\n", words(s.Conflicts))
		}
		for _, f := range s.Twice {
			fmt.Fprintf(w, "TAKEN TWICE:\t%s\n", twiceText(f))
		}
		for _, c := range s.Clashes {
			fmt.Fprintf(w, "CLASH:\t%s\n", c)
		}
		for _, text := range s.Troubles {
			fmt.Fprintf(w, "TROUBLE:\t%s\n", text)
		}
		fmt.Fprintf(w, "Networks:\t%d\n", s.Networks)
		fmt.Fprintf(w, "Endpoints:\t%d (%s)\n", s.Endpoints, endpointsText(s))
		if s.Foreigners > 0 {
			fmt.Fprintf(w, "Foreign addresses:\t%s, see weft ipam\n", foreignersText(s))
		}
		fmt.Fprintf(w, "attach=direct:\t%s\n", direct)
		fmt.Fprintf(w, "Firewall IPv4:\t%s\n", s.Firewall.IPv4)
		fmt.Fprintf(w, "Firewall IPv6:\t%s\n", s.Firewall.IPv6)
		if s.Firewall.Zones != "" {
			fmt.Fprintf(w, "firewalld:\t%s\n", s.Firewall.Zones)
		}
		if s.Firewall.Tunnels != "" {
			fmt.Fprintf(w, "Tunnels:\t%s\n", s.Firewall.Tunnels)
		}
		if s.Firewall.Shortcuts != "" {
			fmt.Fprintf(w, "Short cuts:\t%s\n", s.Firewall.Shortcuts)
		}
		printNames(w, s.Names)
		fmt.Fprintf(w, "Reconcile:\t%d runs, %d repairs, %d leaks collected\n", s.Reconcile.Runs, s.Reconcile.Repairs, s.Reconcile.Collected)
		if s.Reconcile.LastError != "" {
			fmt.Fprintf(w, "Last error:\t%s\n", s.Reconcile.LastError)
		}
		fmt.Fprintf(w, "Journal:\t%s\n", s.Journal)
	})
}

// printCluster is the line about the cluster in the status.
func printCluster(w io.Writer, s *admin.StoreStatus) {
	switch {
	case s == nil:
		fmt.Fprintln(w, "Cluster:\tnone, this host is on its own")
	case s.Problem != "":
		fmt.Fprintf(w, "Cluster:\t%s\n", s.Problem)
	default:
		fmt.Fprintf(w, "Cluster:\t%s at %s\n", s.Standing, strings.Join(s.Endpoints, ", "))
	}
}

func networksCommand() *cobra.Command {
	return show("networks", "List weft's networks on this host", (*admin.Client).Networks, func(w io.Writer, list []admin.Network) {
		fmt.Fprintln(w, "NETWORK ID\tMODE\tDEVICE\tSUBNETS\tGATEWAYS\tENDPOINTS\tNOTES")
		for _, n := range list {
			fmt.Fprintf(w, "%.12s\t%s\t%s\t%s\t%s\t%d\t%s\n", n.ID, n.Mode, n.Device, words(n.Subnets), words(n.Gateways), n.Endpoints, strings.Join(networkNotes(n), ", "))
		}
	})
}

// networkNotes are what is special about a network.
func networkNotes(n admin.Network) []string {
	var notes []string
	if n.Internal {
		notes = append(notes, "internal")
	}
	switch {
	case n.VLAN != 0:
		notes = append(notes, fmt.Sprintf("VLAN %d of %s", n.VLAN, n.Parent))
	case n.Adopted && n.Parent == "":
		notes = append(notes, "adopted bridge")
	}
	if len(n.HostAccess) > 0 {
		notes = append(notes, "the host is at "+words(n.HostAccess))
	}
	for _, text := range n.Troubles {
		notes = append(notes, "TROUBLE: "+text)
	}
	return notes
}

func endpointsCommand() *cobra.Command {
	return show("endpoints", "List weft's endpoints on this host", (*admin.Client).Endpoints, func(w io.Writer, list []admin.Endpoint) {
		fmt.Fprintln(w, "ENDPOINT ID\tNETWORK ID\tADDRESSES\tMAC\tLINK\tATTACH\tNOTES")
		for _, e := range list {
			attach, notes := e.Attach, ""
			if !e.Joined {
				attach, notes = "-", "in no container"
			}
			if e.AttachWhy != "" {
				notes = "not direct: " + e.AttachWhy
			}
			if e.Off {
				notes = "off the network: another host has its address; restart the container"
			}
			fmt.Fprintf(w, "%.12s\t%.12s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Network, words(e.Addresses), e.MAC, e.HostLink, attach, notes)
		}
	})
}

func portsCommand() *cobra.Command {
	return show("ports", "List the ports that weft publishes (publish=native)", (*admin.Client).Ports, func(w io.Writer, list []admin.Port) {
		fmt.Fprintln(w, "HOST\tCONTAINER\tPROTOCOL\tENDPOINT ID\tNETWORK ID")
		for _, p := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%.12s\t%.12s\n", p.Host, p.Container, p.Proto, p.Endpoint, p.Network)
		}
	})
}

func ipamCommand() *cobra.Command {
	return show("ipam", "List the address pools of weft's IPAM driver", (*admin.Client).Pools, func(w io.Writer, list []admin.Pool) {
		fmt.Fprintln(w, "SUBNET\tRANGE\tDOMAIN\tUSED\tFREE\tCOOLING\tOWNERS\tNETWORK ID\tADDRESSES")
		for _, p := range list {
			limit := "-"
			if p.Range.IsValid() {
				limit = p.Range.String()
			}
			var used []string
			for _, a := range p.Addresses {
				used = append(used, addressText(a))
			}
			for _, f := range p.Foreigners {
				used = append(used, foreignText(f))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%.12s\t%s\n", p.Subnet, limit, p.Domain, p.Used, p.Free, len(p.Cooling),
				ownersText(p.Cluster), p.Network, strings.Join(used, ", "))
		}
	})
}

// endpointsText says where they are.
func endpointsText(s admin.Status) string {
	text := fmt.Sprintf("%d in a container", s.Joined)
	if s.Gone > 0 {
		text += fmt.Sprintf(", %d whose container is gone: freed some minutes after the engine forgot them", s.Gone)
	}
	return text
}

// foreignersText counts them.
func foreignersText(s admin.Status) string {
	if s.Own > 0 {
		return fmt.Sprintf("%d (this host itself has %d)", s.Foreigners, s.Own)
	}
	return strconv.Itoa(s.Foreigners)
}

// foreignText is an address that a machine has which is no container of weft's.
func foreignText(f admin.Foreigner) string {
	if f.Own != "" {
		return f.Address.String() + " (THIS HOST: " + f.Own + ")"
	}
	return f.Address.String() + " (FOREIGN: " + f.MAC + ")"
}

// twiceText says who else has the address of a container, and what to do.
func twiceText(f admin.Foreigner) string {
	if f.Own != "" {
		return fmt.Sprintf("a container here has %s, and this host itself has it on %s: take it off %s, or give the container another address", f.Address, f.Own, f.Own)
	}
	return fmt.Sprintf("%s is in use here, and the machine %s on the line has it too: restart what has it here", f.Address, f.MAC)
}

// addressText is an address with what is special about it.
func addressText(a admin.Address) string {
	var notes []string
	if note := cmp.Or(a.Name, a.Kind); note != "endpoint" {
		// What is no container's name, as this host's own, has brackets already.
		notes = append(notes, strings.TrimSuffix(strings.TrimPrefix(note, "("), ")"))
	}
	if a.Leaked {
		notes = append(notes, "leaked")
	}
	if a.Conflict {
		notes = append(notes, "CONFLICT")
	}
	if len(notes) == 0 {
		return a.Address.String()
	}
	return a.Address.String() + " (" + strings.Join(notes, ", ") + ")"
}

// ownersText says which hosts own how many addresses of a pool.
func ownersText(c *admin.PoolCluster) string {
	if c == nil {
		return "this host alone"
	}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(c.Owners)) {
		out = append(out, fmt.Sprintf("%s %d", name, c.Owners[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Dead)) {
		out = append(out, fmt.Sprintf("%s %d (removed)", name, c.Dead[name]))
	}
	if len(c.Bad) > 0 {
		out = append(out, fmt.Sprintf("%d records that cannot be read", len(c.Bad)))
	}
	if c.Problem != "" {
		out = append(out, "PROBLEM: "+c.Problem)
	}
	return cmp.Or(strings.Join(out, ", "), "-")
}

func words[T fmt.Stringer](list []T) string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return strings.Join(out, " ")
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{Use: "version", Short: "Print the version", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return output(cmd.OutOrStdout(), asJSON, build.Read(version), func(w io.Writer, b build.Info) {
			fmt.Fprintf(w, "weft %s (%s)\n", b.Version, b.Go)
		})
	}}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
