package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
)

func hostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "List and remove the hosts of the cluster"}
	cmd.AddCommand(hostListCommand("ls"), hostRemoveCommand())
	return cmd
}

// hostListCommand is `weft hosts`, and `weft host ls` beside `weft host rm`.
func hostListCommand(use string) *cobra.Command {
	return show(use, "List the hosts of the cluster", (*admin.Client).Hosts, func(w io.Writer, list []admin.Host) {
		fmt.Fprintln(w, "NAME\tADDRESS\tSTATE\tID\tNOTES")
		for _, h := range list {
			address := "-"
			if h.Address.IsValid() {
				address = h.Address.String()
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", cmp.Or(h.Name, "-"), address, hostState(h.HostView), h.ID, hostNotes(h))
		}
	})
}

// hostNotes is what an operator has to know of a host besides its state.
func hostNotes(h admin.Host) string {
	return strings.Join(slices.DeleteFunc([]string{h.Clash, h.Note}, func(s string) bool { return s == "" }), "; ")
}

func hostState(h cluster.HostView) string {
	switch {
	case h.Removed:
		return "removed"
	case h.Me:
		return "this host"
	case h.Stale && h.Connected:
		return "connected when the store was last seen"
	case h.Connected:
		return "connected"
	case h.Stale:
		return "unknown: the store does not answer"
	default:
		return "not connected"
	}
}

func hostRemoveCommand() *cobra.Command {
	var off bool
	var name string
	cmd := show("rm [--powered-off] NAME", "Remove a host that is gone for good",
		func(c *admin.Client, ctx context.Context) (cluster.HostView, error) {
			return c.RemoveHost(ctx, admin.HostRemoval{Name: name, PoweredOff: off})
		},
		func(w io.Writer, h cluster.HostView) {
			fmt.Fprintf(w, "removed host %s (%s): its addresses are free, and used last\n", cmp.Or(h.Name, "without a name"), h.ID)
			if h.Note != "" {
				fmt.Fprintln(w, h.Note)
			}
		})
	cmd.Long = "rm frees the addresses of a host that will not come back under its old id. It is refused while the host is\n" +
		"connected or answers any other host. --powered-off is your word that it is off, and refused only for a host that\n" +
		"is connected and answers: one that runs nevertheless shares addresses with others until it reaches the store."
	cmd.Args = cobra.ExactArgs(1)
	cmd.PreRun = func(_ *cobra.Command, args []string) { name = args[0] }
	cmd.Flags().BoolVar(&off, "powered-off", false, "the host is off, whatever it looks like from here")
	return cmd
}

func storeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "store", Short: "Look at the store that the hosts share, and recover it"}
	status := show("status", "Show the store as this host sees it", (*admin.Client).Store, printStore)
	recovery := show("recover", "Go on after the store was restored from a backup or wiped", (*admin.Client).RecoverStore, printStore)
	recovery.Long = "recover lets every host tell the store which addresses it owns; nothing changes its owner before all have.\n" +
		"Say it once, on any host, when all hosts are up: hosts that nobody here knows are not waited for (weft host ls)."
	cmd.AddCommand(status, recovery)
	return cmd
}

func printStore(w io.Writer, s admin.StoreStatus) {
	state := "up"
	if !s.Up {
		state = "down: " + s.Why
	}
	fmt.Fprintf(w, "Endpoints:\t%s\n", strings.Join(s.Endpoints, ", "))
	fmt.Fprintf(w, "Keys:\t%s*\n", s.Prefix)
	fmt.Fprintf(w, "Store:\t%s since %s\n", state, s.Since.Format(time.RFC3339))
	fmt.Fprintf(w, "Cluster:\t%s\n", s.Cluster)
	fmt.Fprintf(w, "This host:\t%s (%s)\n", s.HostID, s.Standing)
	if s.Problem != "" {
		fmt.Fprintf(w, "Problem:\t%s\n", s.Problem)
	}
	if len(s.WaitsFor) > 0 {
		fmt.Fprintf(w, "Waits for:\t%s\n", strings.Join(s.WaitsFor, ", "))
	}
}
