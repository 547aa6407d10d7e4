package firewall

import (
	"bytes"
	"context"
	_ "embed" // for the skeletons
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
)

const (
	tableName  = "weft"
	gotoPrefix = "goto "

	// MarkAccepted is the bit of a packet's mark that says "weft has let this
	// packet through". weft sets it before the engine's filter rules run and
	// clears it after them; nobody else may use it while a packet is forwarded.
	MarkAccepted = 0x02000000
)

//go:embed skeleton.nft
var hostSkeleton string

//go:embed tunnels.nft
var tunnelSkeleton string

// A table is one of weft's tables.
type table struct {
	family nftables.TableFamily
	name   string
	// skeleton is its static half, sets are the names of the other one.
	skeleton string
	sets     []setName
}

// hostTable is there while there is a network.
func hostTable() table {
	return table{nftables.TableFamilyINet, tableName, hostSkeleton, []setName{
		"bridges", "internal", "uplinks", "local", "into4", "into6", "trusted",
		"open4", "open6", "ports4", "ports6", "any4", "any6",
		"masq4", "masq6", "snat4", "snat6", "hair4", "hair6",
	}}
}

// tunnelTable is there while one of its sets has an element: its hooks cost every
// bridged frame, those of the engine's bridges included.
func tunnelTable() table {
	return table{nftables.TableFamilyBridge, tableName, tunnelSkeleton, []setName{"gw4", "gw6", "nd6"}}
}

// allTables are the tables that are one for all networks.
func allTables() []table { return []table{hostTable(), tunnelTable()} }

// String returns the table's family and name as nft takes them.
func (t table) String() string {
	switch t.family {
	case nftables.TableFamilyBridge:
		return "bridge " + t.name
	case nftables.TableFamilyNetdev:
		return "netdev " + t.name
	}
	return "inet " + t.name
}

// has says whether the set is one of the table.
func (t table) has(set setName) bool { return slices.Contains(t.sets, set) }

// kernel returns the table as the netlink library takes it.
func (t table) kernel() *nftables.Table { return &nftables.Table{Name: t.name, Family: t.family} }

func cutVerdict(text string) (chain string, ok bool) {
	return strings.CutPrefix(text, gotoPrefix)
}

// ruleset returns the text that makes the table of the skeleton filled with the
// elements; replace puts it in the place of whatever is there. nft loads it as one
// transaction.
func (t table) ruleset(want map[setName][]element, replace bool) string {
	var b strings.Builder
	if replace {
		fmt.Fprintf(&b, "table %s\ndelete table %s\n", t, t)
	}
	b.WriteString(t.skeleton)
	for _, set := range t.sets {
		for _, e := range want[set] {
			b.WriteString(e.nft(t))
		}
	}
	return b.String()
}

// rules counts the rules of the skeleton: the lines of its chains, less the one
// that makes a chain a hook.
func (t table) rules() int {
	rules, inChain := 0, false
	for line := range strings.Lines(t.skeleton) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "chain "):
			inChain = true
		case line == "}":
			inChain = false
		case inChain && line != "" && !strings.HasPrefix(line, "type ") && !strings.HasPrefix(line, "#"):
			rules++
		}
	}
	return rules
}

// load runs nft on a table's text, in the namespace.
func (t table) load(ctx context.Context, ns namespace, nft, text string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, nft, "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	cmd.Stderr = &stderr
	err := ns.do(cmd.Run)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("loading table %s: %w", t, ctx.Err())
	case errors.As(err, &exit):
		return fmt.Errorf("loading table %s: %w: %s", t, ErrNoNFTables, firstLine(stderr.String()))
	}
	return fmt.Errorf("loading table %s: %w: %w", t, ErrNoNFT, err)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
