package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weft-net/weft/"

// TestFences holds the direction of imports: who may not depend on whom, and
// which library is spoken in one place only.
func TestFences(t *testing.T) {
	list := exec.Command("go", "list", "-f", `{{.ImportPath}}:{{join .Imports ","}}`, module+"...")
	var said bytes.Buffer
	list.Stderr = &said
	out, err := list.Output()
	if err != nil {
		t.Fatal(err, said.String())
	}
	only := map[string]string{ // library → the one place for it
		"github.com/vishvananda/": "internal/kernel", "github.com/coreos/go-iptables": "internal/firewall",
		"github.com/google/nftables": "internal/firewall", "github.com/godbus/dbus": "internal/firewall", "go.etcd.io/bbolt": "internal/journal", "github.com/spf13/cobra": "cmd/weft",
		"go.etcd.io/etcd": "internal/store", "google.golang.org/grpc": "internal/store",
		"github.com/docker/go-plugins-helpers": "plugin",
	}
	kinds := []string{"bridge", "overlay", "macvlan", "ipvlan"}
	above := func(more ...string) []string { return slices.Concat(kinds, []string{"ipam", "cmd/"}, more) }
	never := map[string][]string{ // package → what it must not import
		"plugin": above("driver", "driver/", "internal/"),
		"driver": above("driver/"), "driver/": above("plugin"),
		"ipam": slices.Concat(kinds, []string{"driver", "driver/", "cmd/"}), "internal/": above("plugin", "driver", "driver/"),
	}
	for _, kind := range kinds {
		never[kind] = slices.DeleteFunc(above("plugin"), func(p string) bool { return p == kind })
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		pkg = strings.TrimPrefix(pkg, module)
		if strings.HasPrefix(pkg, "test/") {
			continue
		}
		for imp := range strings.SplitSeq(imports, ",") {
			for lib, place := range only {
				if strings.HasPrefix(imp, lib) && pkg != place {
					t.Errorf("%s imports %s, which is spoken only in %s", pkg, imp, place)
				}
			}
			own, ok := strings.CutPrefix(imp, module)
			for from, list := range never {
				if ok && (pkg == from || strings.HasSuffix(from, "/") && strings.HasPrefix(pkg, from)) &&
					slices.ContainsFunc(list, func(p string) bool { return own == p || strings.HasSuffix(p, "/") && strings.HasPrefix(own, p) }) {
					t.Errorf("%s imports %s", pkg, own)
				}
			}
		}
	}
}

// run runs a command line and returns what it prints.
func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		ok   bool
		want string
	}{
		{[]string{"version"}, true, "weft devel (go"},
		{[]string{"version", "--json"}, true, `"version": "devel"`},
		{[]string{"help"}, true, "endpoints"},
		{[]string{"completion", "bash"}, true, "__start_weft"},
		{[]string{"serve", "--help"}, true, "WEFT_POOLS"},
		{[]string{"status", "--socket", "/nowhere"}, false, "weft does not run on this host"},
		{[]string{"network", "rm"}, false, "accepts 1 arg"},
		{[]string{"network", "--help"}, true, "weft networks"},
		{[]string{"reset"}, false, "say --yes"},
		{[]string{"statsu"}, false, "status"},
		{[]string{"status", "extra"}, false, "unknown command"},
	} {
		out, err := run(t, c.args...)
		if (err == nil) != c.ok {
			t.Errorf("weft %s: %v", strings.Join(c.args, " "), err)
		}
		if err != nil {
			out += err.Error()
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("weft %s lacks %q:\n%s", strings.Join(c.args, " "), c.want, out)
		}
	}
}

// TestManual: each command has its page.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if _, err := run(t, "man", dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"weft", "weft-serve", "weft-status", "weft-networks", "weft-endpoints", "weft-ports", "weft-ipam", "weft-hosts", "weft-host", "weft-host-ls", "weft-host-rm", "weft-network", "weft-network-ls", "weft-network-rm", "weft-names", "weft-reset", "weft-version"} {
		page, err := os.ReadFile(filepath.Join(dir, name+".8"))
		if err != nil || !strings.Contains(string(page), ".SH NAME") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
