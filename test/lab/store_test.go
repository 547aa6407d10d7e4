//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// newStore starts three hosts without engines, of all releases, and a store.
func newStore(t *testing.T, cfg StoreConfig) (*Lab, *Store) {
	t.Helper()
	needRoot(t)
	var hosts Config
	for _, v := range Engines() {
		hosts.Hosts = append(hosts.Hosts, HostConfig{Engine: v, NoEngine: true})
	}
	l := New(t, hosts)
	cfg.Members = l.Hosts
	begin := time.Now()
	s, err := StartStore(t.Context(), cfg)
	check(t, err)
	t.Logf("the store serves after %v", time.Since(begin))
	return l, s
}

// holds makes sure that the store has this value.
func holds(t *testing.T, s *Store, key, value string) {
	t.Helper()
	keys, err := s.Get(t.Context(), key)
	check(t, err)
	if keys[key] != value {
		t.Errorf("%s is %q, want %q; there is %v", key, keys[key], value, keys)
	}
}

func put(t *testing.T, s *Store, key, value string) {
	t.Helper()
	_, err := s.Ctl(t.Context(), "put", key, value)
	check(t, err)
}

// silent makes sure that the store does not serve.
func silent(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if out, err := s.Ctl(ctx, "get", "a/1"); err == nil {
		t.Errorf("the store serves: %s", out)
	}
}

// from runs etcdctl on a host with what Settings says.
func from(ctx context.Context, h *Host, s *Store, args ...string) (string, error) {
	set := s.Settings()
	command := []string{"env", "ETCDCTL_API=3"}
	if user := set["WEFT_STORE_USER"]; user != "" {
		command = append(command, "ETCDCTL_USER="+user, "ETCDCTL_PASSWORD="+set["WEFT_STORE_PASSWORD"])
	}
	addresses := strings.TrimPrefix(set["WEFT_STORE"], "etcd://")
	if ca := set["WEFT_STORE_CA"]; ca != "" {
		addresses = "https://" + strings.ReplaceAll(addresses, ",", ",https://")
		command = append(command, "etcdctl", "--cacert="+ca, "--cert="+set["WEFT_STORE_CERT"], "--key="+set["WEFT_STORE_KEY"])
	} else {
		command = append(command, "etcdctl")
	}
	command = append(command, "--endpoints="+addresses, "--command-timeout=2s")
	return h.Run(ctx, append(command, args...)...)
}

func TestStore(t *testing.T) {
	l, s := newStore(t, StoreConfig{Quota: 16 << 20})
	ctx, h1, h2, h3 := t.Context(), l.Hosts[0], l.Hosts[1], l.Hosts[2]
	if want := "etcd://10.77.0.11:2379,10.77.0.12:2379,10.77.0.13:2379"; len(s.Settings()) != 1 || s.Settings()["WEFT_STORE"] != want {
		t.Errorf("settings are %v", s.Settings())
	}
	put(t, s, "a/1", "one")
	put(t, s, "a/2", "two words")
	if keys, err := s.Get(ctx, ""); err != nil || fmt.Sprint(keys) != "map[a/1:one a/2:two words]" {
		t.Errorf("keys are %v, %v", keys, err)
	}
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"member killed", func(t *testing.T) {
			check(t, s.Kill(ctx, h1))
			check(t, s.Await(ctx))
			put(t, s, "a/1", "after a kill")
			check(t, s.Kill(ctx, h2))
			silent(t, s)
			check(t, s.Start(ctx, h1, h2))
			check(t, s.Await(ctx))
			holds(t, s, "a/1", "after a kill")
		}},
		{"all paused, then killed", func(t *testing.T) {
			check(t, s.Pause(ctx))
			silent(t, s)
			check(t, s.Resume(ctx))
			check(t, s.Await(ctx))
			put(t, s, "a/1", "after a pause")
			check(t, s.Kill(ctx))
			silent(t, s)
			check(t, s.Start(ctx))
			check(t, s.Await(ctx))
			holds(t, s, "a/1", "after a pause")
		}},
		{"link cut", func(t *testing.T) { linkCut(t, s, h2, h3) }},
		{"power off", func(t *testing.T) { powerOff(t, s, h3) }},
		{"full", func(t *testing.T) {
			check(t, s.Fill(ctx))
			holds(t, s, "a/2", "two words")
			if _, err := s.Ctl(ctx, "put", "b", "x"); err == nil {
				t.Error("a full store takes a key")
			}
			check(t, s.Drain(ctx))
			put(t, s, "b", "x")
		}},
	} {
		if !t.Run(step.name, step.test) {
			return
		}
	}
}

// linkCut cuts a host off: its own clients and the others lose each other.
func linkCut(t *testing.T, s *Store, cut, other *Host) {
	ctx := t.Context()
	check(t, cut.CutLink(ctx))
	check(t, s.Await(ctx))
	put(t, s, "cut", "unseen")
	if out, err := from(ctx, other, s, "get", "--print-value-only", "cut"); err != nil || out != "unseen" {
		t.Errorf("another host reads %q, %v", out, err)
	}
	if out, err := from(ctx, cut, s, "get", "cut"); err == nil {
		t.Errorf("a host that is cut off reads %q", out)
	}
	// Its own member runs, and knows that it is alone.
	if out, err := from(ctx, cut, s, "get", "--consistency=s", "--print-value-only", "a/2"); err != nil || out != "two words" {
		t.Errorf("the member that is cut off says %q, %v", out, err)
	}
	check(t, cut.HealLink(ctx))
	check(t, Until(ctx, "the return", func(ctx context.Context) error {
		out, err := from(ctx, cut, s, "get", "--print-value-only", "cut")
		if err == nil && out != "unseen" {
			err = fmt.Errorf("it reads %q", out)
		}
		return err
	}))
}

// powerOff loses a host, then all, and looks at what boots again.
func powerOff(t *testing.T, s *Store, h *Host) {
	ctx := t.Context()
	check(t, h.PowerOff(ctx))
	check(t, s.Await(ctx))
	put(t, s, "off", "one")
	check(t, h.Boot(ctx))
	check(t, Until(ctx, "the member's return", func(ctx context.Context) error {
		out, err := s.ctl(ctx, nil, []*Host{h}, "get", "--print-value-only", "off")
		if err == nil && out != "one" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	}))
	check(t, each(s.Members(), func(m *Host) error { return m.PowerOff(ctx) }))
	check(t, each(s.Members(), func(m *Host) error { return m.Boot(ctx) }))
	check(t, s.Await(ctx))
	holds(t, s, "off", "one")
	// Who was stopped stays so.
	check(t, s.Stop(ctx, h))
	check(t, h.PowerOff(ctx))
	check(t, h.Boot(ctx))
	if h.daemonAlive("etcd") {
		t.Error("a member that was stopped runs after the boot")
	}
	check(t, s.Start(ctx, h))
}

func TestStoreLocked(t *testing.T) {
	l, s := newStore(t, StoreConfig{TLS: true, Auth: true})
	ctx, h1 := t.Context(), l.Hosts[0]
	// As weft will see it, on members and elsewhere.
	for _, h := range []*Host{h1, l.Outside} {
		if out, err := from(ctx, h, s, "put", "a/"+h.Name, "x"); err != nil {
			t.Errorf("%s: %s %v", h.Name, out, err)
		}
		if mode := h.MustRun(t, "stat", "-c", "%a %U", s.Settings()["WEFT_STORE_KEY"]); mode != "600 root" {
			t.Errorf("%s: the key is %s", h.Name, mode)
		}
	}
	if _, err := from(ctx, h1, s, "user", "list"); err == nil {
		t.Error("the user of the settings is an administrator")
	}
	url := s.url(h1, clientPort)
	for _, args := range [][]string{
		{"--endpoints=" + url},
		{"--endpoints=" + url, "--cacert=" + clientTLS + "/ca.pem"},
		{"--endpoints=" + url, "--cacert=" + clientTLS + "/ca.pem", "--cert=" + clientTLS + "/cert.pem", "--key=" + clientTLS + "/key.pem"},
		{"--endpoints=" + url, "--cacert=" + clientTLS + "/ca.pem", "--cert=" + clientTLS + "/cert.pem", "--key=" + clientTLS + "/key.pem", "--user=" + weftUser, "--password=wrong"},
	} {
		if out, err := h1.Run(ctx, append(append([]string{"env", "ETCDCTL_API=3", "etcdctl", "--command-timeout=1s"}, args...), "get", "a")...); err == nil {
			t.Errorf("etcdctl %v got in: %s", args, out)
		}
	}

	old, err := s.Snapshot(ctx)
	check(t, err)
	before, err := s.Revision(ctx)
	check(t, err)
	put(t, s, "a/later", "y")
	check(t, s.Kill(ctx, h1)) // one that does not run is no obstacle
	begin := time.Now()
	check(t, s.Restore(ctx, old))
	t.Logf("restored after %v", time.Since(begin))
	if now, err := s.Revision(ctx); err != nil || now != before {
		t.Errorf("revision %d after the backup, %d before, %v", now, before, err)
	}
	if keys, err := s.Get(ctx, "a"); err != nil || len(keys) != 2 {
		t.Errorf("the backup holds %v, %v", keys, err)
	}

	begin = time.Now()
	check(t, s.Wipe(ctx))
	t.Logf("wiped after %v", time.Since(begin))
	if keys, err := s.Get(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("a wiped store holds %v, %v", keys, err)
	}
	if _, err := from(ctx, h1, s, "put", "a", "x"); err != nil {
		t.Errorf("after a wipe: %v", err)
	}
	if err := s.Fill(ctx); err == nil {
		t.Error("a store without a quota is full")
	}
	if _, err := StartStore(ctx, StoreConfig{Members: l.Hosts}); err == nil {
		t.Error("two stores on one host")
	}
	if err := s.Stop(ctx, l.Outside); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop of a member that is none: %v", err)
	}
}
