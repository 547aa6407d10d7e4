package firewall

import (
	"fmt"
	"slices"
	"strings"
)

// A Flavour is one of the two rule sets that go by the name of iptables. A
// kernel runs both.
type Flavour string

// The flavours of iptables.
const (
	FlavourNFT    Flavour = "nft"
	FlavourLegacy Flavour = "legacy"
)

// The chains that weft reads, and the one that is its own.
const (
	chainForward = "FORWARD"
	chainUser    = "DOCKER-USER"
	chainOurs    = "WEFT-FORWARD"
)

// A Jump is one place where packets of weft are let past the host's own rules.
type Jump struct {
	Flavour Flavour
	// Chain holds the jump: DOCKER-USER, or FORWARD while that is out of reach.
	Chain string
}

// Coexistence says how weft's packets of one family pass the host's iptables.
type Coexistence struct {
	// Jumps are in force; there is one for each flavour that needs one.
	Jumps []Jump
	// Reason says why, in a sentence for the operator.
	Reason string
}

// A filterTable is what the filter table of one flavour and family holds. The
// rules are as -S prints them.
type filterTable struct {
	forward, user, ours []string
	// hasUser and hasOurs tell an empty chain from none.
	hasForward, hasUser, hasOurs bool
	dropsByDefault               bool
}

// userReachable says whether packets come to DOCKER-USER.
func (t filterTable) userReachable() bool {
	return t.hasUser && slices.Contains(t.forward, rule(chainForward, jump(chainUser)))
}

// judges says whether FORWARD has rules of others, weft's jump aside.
func (t filterTable) judges() bool {
	ours := rule(chainForward, jump(chainOurs))
	return slices.ContainsFunc(t.forward, func(r string) bool { return r != ours })
}

// place decides for each flavour present into which chain the jump goes, if any.
func place(found map[Flavour]filterTable) Coexistence {
	var c Coexistence
	var why []string
	user := ""
	for f, t := range found {
		if t.userReachable() {
			user = string(f)
		}
	}
	for _, f := range []Flavour{FlavourNFT, FlavourLegacy} {
		t, ok := found[f]
		switch {
		case !ok:
		case t.userReachable():
			c.Jumps = append(c.Jumps, Jump{f, chainUser})
			why = append(why, fmt.Sprintf("DOCKER-USER is in iptables-%s", f))
		case t.hasForward && t.dropsByDefault:
			c.Jumps = append(c.Jumps, Jump{f, chainForward})
			why = append(why, fmt.Sprintf("FORWARD of iptables-%s drops by default and does not lead to DOCKER-USER", f))
		case t.judges() && user == "":
			c.Jumps = append(c.Jumps, Jump{f, chainForward})
			why = append(why, fmt.Sprintf("FORWARD of iptables-%s has rules and does not lead to DOCKER-USER", f))
		default:
			why = append(why, fmt.Sprintf("iptables-%s stands in nobody's way", f))
		}
	}
	if len(why) == 0 {
		why = []string{"there is no iptables filter table: nothing stands in the way"}
	}
	c.Reason = strings.Join(why, "; ")
	return c
}

// chain returns where the jump of a flavour goes; empty for nowhere.
func (c Coexistence) chain(f Flavour) string {
	for _, j := range c.Jumps {
		if j.Flavour == f {
			return j.Chain
		}
	}
	return ""
}

// An edit is one call of iptables on the filter table.
type edit struct {
	verb  verb
	chain string
	rule  []string
}

type verb string

const (
	verbMake   verb = "make"   // the chain, which is not there
	verbClear  verb = "empty"  // the chain
	verbAppend verb = "append" // as the last rule
	verbInsert verb = "insert" // as the first rule
	verbDelete verb = "delete" // one copy of the rule
	verbRemove verb = "remove" // the chain, which is empty and unused
)

// edits returns what makes the jump be in this chain, once, and nowhere else;
// with an empty target, what removes everything of weft. When the jump moves
// from one chain to another, packets never lack it in between.
func (t filterTable) edits(target string) []edit {
	var es []edit
	if target != "" && !slices.Equal(t.ours, []string{rule(chainOurs, accept())}) {
		switch { // an edit is a process: none without need
		case !t.hasOurs:
			es = append(es, edit{verb: verbMake, chain: chainOurs})
		case len(t.ours) > 0:
			es = append(es, edit{verb: verbClear, chain: chainOurs})
		}
		es = append(es, edit{verbAppend, chainOurs, accept()})
	}
	rules := map[string][]string{chainForward: t.forward, chainUser: t.user}
	if target != "" && !inPlace(target, rules[target]) {
		es = append(es, deletions(target, rules[target])...)
		es = append(es, edit{verbInsert, target, jump(chainOurs)})
	}
	for _, chain := range []string{chainForward, chainUser} {
		if chain != target {
			es = append(es, deletions(chain, rules[chain])...)
		}
	}
	if target == "" && len(t.ours) > 0 {
		es = append(es, edit{verb: verbClear, chain: chainOurs})
	}
	if target == "" && t.hasOurs {
		es = append(es, edit{verb: verbRemove, chain: chainOurs})
	}
	return es
}

// inPlace says whether the chain has one jump, and packets come to it. What
// others put before it on a condition is their right.
func inPlace(chain string, rules []string) bool {
	ours := rule(chain, jump(chainOurs))
	first := slices.Index(rules, ours)
	if first < 0 || slices.Contains(rules[first+1:], ours) {
		return false
	}
	// Old engines end DOCKER-USER with RETURN: behind it nothing works.
	return !slices.Contains(rules[:first], rule(chain, jump("RETURN")))
}

// deletions removes every jump of weft from a chain. It names the rule and not
// its number, which may be another rule's by now.
func deletions(chain string, rules []string) []edit {
	var es []edit
	for _, r := range rules {
		if r == rule(chain, jump(chainOurs)) {
			es = append(es, edit{verbDelete, chain, jump(chainOurs)})
		}
	}
	return es
}

func accept() []string {
	mark := fmt.Sprintf("%#x/%#x", MarkAccepted, MarkAccepted)
	return []string{"-m", "mark", "--mark", mark, "-j", "ACCEPT"}
}

func jump(chain string) []string { return []string{"-j", chain} }

// rule returns a rule as -S prints it.
func rule(chain string, spec []string) string {
	return "-A " + chain + " " + strings.Join(spec, " ")
}
