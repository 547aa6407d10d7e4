package storetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Ctl runs etcdctl as root on the members that run, and returns what it prints.
func (c *Cluster) Ctl(args ...string) string {
	c.tb.Helper()
	out, err := c.ctl(args...)
	if err != nil {
		c.tb.Fatal(err)
	}
	return out
}

func (c *Cluster) ctl(args ...string) (string, error) {
	scheme := "http"
	var all []string
	if c.cfg.TLS {
		scheme = "https"
		all = append(all, "--cacert="+c.CA, "--cert="+c.Cert, "--key="+c.Key)
	}
	var endpoints []string
	for _, m := range c.members {
		if m.cmd != nil {
			endpoints = append(endpoints, fmt.Sprintf("%s://%s:%d", scheme, m.addr, clientPort))
		}
	}
	if c.locked {
		all = append(all, "--user=root:"+rootPassword)
	}
	all = append(append(all, "--endpoints="+strings.Join(endpoints, ","), "--command-timeout=20s"), args...)
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(c.tb.Context(), filepath.Join(c.bin, "etcdctl"), all...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("etcdctl %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// lockUp turns auth on, if the cluster is to have it.
func (c *Cluster) lockUp() {
	c.tb.Helper()
	if !c.cfg.Auth {
		return
	}
	c.User, c.Password = "weft", "pass:word, #1"
	c.Ctl("user", "add", "root:"+rootPassword)
	c.Ctl("user", "grant-role", "root", "root")
	c.Ctl("user", "add", c.User+":"+c.Password)
	c.Ctl("role", "add", "weft")
	c.Ctl("role", "grant-permission", "--prefix=true", "weft", "readwrite", "weft/")
	c.Ctl("user", "grant-role", c.User, "weft")
	c.Ctl("auth", "enable")
	c.locked = true
}

// ExpireTokens makes the login of every client invalid, as time does.
func (c *Cluster) ExpireTokens() {
	c.tb.Helper()
	c.Ctl("auth", "disable")
	c.locked = false
	c.Ctl("auth", "enable")
	c.locked = true
}

// Rev returns the store's revision.
func (c *Cluster) Rev() int64 {
	c.tb.Helper()
	var all []struct {
		Status struct {
			Header struct {
				Revision int64 `json:"revision"`
			} `json:"header"`
		}
	}
	if err := json.Unmarshal([]byte(c.Ctl("endpoint", "status", "-w", "json")), &all); err != nil {
		c.tb.Fatal(err)
	}
	rev := int64(0)
	for _, m := range all {
		rev = max(rev, m.Status.Header.Revision)
	}
	return rev
}

// Compact forgets the history up to now.
func (c *Cluster) Compact() {
	c.tb.Helper()
	c.Ctl("compact", strconv.FormatInt(c.Rev(), 10))
}

// Snapshot makes a backup and returns its file.
func (c *Cluster) Snapshot() string {
	c.tb.Helper()
	path := filepath.Join(c.dir, fmt.Sprintf("backup-%d.db", c.Rev()))
	all := c.members
	c.members = all[:1] // a backup is of one member
	defer func() { c.members = all }()
	c.Ctl("snapshot", "save", path)
	return path
}

// Restore replaces what the cluster holds by a backup and starts it again, with
// the identity it had.
func (c *Cluster) Restore(backup string) {
	c.tb.Helper()
	c.Stop()
	for _, m := range c.members {
		if err := os.RemoveAll(m.data); err != nil {
			c.tb.Fatal(err)
		}
		args := []string{"snapshot", "restore", backup}
		for _, arg := range m.args {
			for _, name := range []string{"--name=", "--data-dir=", "--initial-cluster=", "--initial-cluster-token=", "--initial-advertise-peer-urls="} {
				if strings.HasPrefix(arg, name) {
					args = append(args, arg)
				}
			}
		}
		c.Ctl(args...)
	}
	c.StartAll()
}

// Wipe replaces the cluster by a new and empty one at the same addresses.
func (c *Cluster) Wipe() {
	c.tb.Helper()
	c.Stop()
	for _, m := range c.members {
		if err := os.RemoveAll(m.data); err != nil {
			c.tb.Fatal(err)
		}
	}
	c.locked = false
	c.StartAll()
	c.lockUp()
}
