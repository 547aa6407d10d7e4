package firewall

import (
	"bytes"
	"context"
	_ "embed" // for the skeleton
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

const (
	tableName  = "weft"
	gotoPrefix = "goto "

	// MarkAccepted is the bit of a packet's mark that says "weft has let this
	// packet through". weft sets it before the engine's filter rules run and
	// clears it after them; nobody else may use it while a packet is forwarded.
	MarkAccepted = 0x02000000
)

// skeleton is the static half of the table.
//
//go:embed skeleton.nft
var skeleton string

func cutVerdict(text string) (chain string, ok bool) {
	return strings.CutPrefix(text, gotoPrefix)
}

// ruleset returns the text that replaces weft's table, whatever is there, by the
// skeleton filled with the elements. nft loads it as one transaction.
func ruleset(want map[setName][]element) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\n", tableName, tableName)
	b.WriteString(skeleton)
	for _, set := range setNames() {
		for _, e := range want[set] {
			b.WriteString(e.nft())
		}
	}
	return b.String()
}

// skeletonRules counts the rules of the skeleton: the lines of its chains, less
// the one that makes a chain a hook.
func skeletonRules() int {
	rules, inChain := 0, false
	for line := range strings.Lines(skeleton) {
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

// load runs nft on a text, in the namespace.
func load(ctx context.Context, ns namespace, nft, text string) error {
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
		return fmt.Errorf("loading table inet %s: %w", tableName, ctx.Err())
	case errors.As(err, &exit):
		return fmt.Errorf("loading table inet %s: %w: %s", tableName, ErrNoNFTables, firstLine(stderr.String()))
	}
	return fmt.Errorf("loading table inet %s: %w: %w", tableName, ErrNoNFT, err)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}
