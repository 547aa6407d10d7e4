//go:build linux

// Command weftlab starts and removes test hosts by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"github.com/weft-net/weft/test/lab"
)

const usage = `usage: weftlab COMMAND

  up [-hosts N] [-engine VERSION] [-store]
                                    start hosts that stay until clean, with
                                    -store a member of etcd on each
  ls                                list the hosts
  sh HOST                           a shell in a host
  exec HOST COMMAND...              a command in a host
  off HOST | on HOST                cut the power of a host, boot it again
  clean [-force] [-cache]           remove the labs of up and of killed runs;
                                    with -force those of running tests too,
                                    with -cache also the roots
  roots                             build all roots

The hosts are h1, h2 ... and outside, a host without an engine.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:])
	// Only a command in a host ends with a bare ExitError: its status is ours.
	if exit, ok := err.(*exec.ExitError); ok && exit.Exited() { //nolint:errorlint // a wrapped one is our own failure
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "weftlab:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	name, args := args[0], args[1:]
	switch {
	case name == "up":
		return up(ctx, args)
	case name == "ls":
		return list(ctx)
	case name == "clean":
		return clean(ctx, args)
	case name == "roots":
		return roots(ctx)
	case name == "sh" && len(args) == 1:
		return enter(args[0], "bash", "-l")
	case name == "exec" && len(args) > 1:
		return enter(args[0], args[1:]...)
	case name == "off" && len(args) == 1:
		return onHost(args[0], func(h *lab.Host) error { return h.PowerOff(ctx) })
	case name == "on" && len(args) == 1:
		return onHost(args[0], func(h *lab.Host) error { return h.Boot(ctx) })
	}
	return errors.New(usage)
}

func up(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("up", flag.ContinueOnError)
	hosts := flags.Int("hosts", 3, "number of hosts")
	engine := flags.String("engine", "", "version of the engine")
	store := flags.Bool("store", false, "run etcd on the hosts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if _, err := lab.Open(""); err == nil {
		return errors.New("a lab is up already")
	}
	begin := time.Now()
	cfg := lab.Config{Keep: true}
	for range *hosts {
		cfg.Hosts = append(cfg.Hosts, lab.HostConfig{Engine: *engine})
	}
	l, err := lab.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Printf("lab %s is up after %.1f s\n", l.ID, time.Since(begin).Seconds())
	if err := list(ctx); err != nil {
		return err
	}
	if *store {
		s, err := lab.StartStore(ctx, lab.StoreConfig{Members: l.Hosts})
		if err != nil {
			return err
		}
		fmt.Printf("\nWEFT_STORE=%s\n", s.Endpoints())
	}
	fmt.Print("\n  go run ./test/lab/weftlab sh h1\n  go run ./test/lab/weftlab exec h1 docker ps\n  go run ./test/lab/weftlab clean\n")
	return nil
}

func list(ctx context.Context) error {
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	for _, h := range append(l.Hosts, l.Outside) {
		state := "off"
		if h.PID() != 0 {
			state = "on"
		}
		version := "-"
		if h != l.Outside && state == "on" {
			if v, err := h.EngineVersion(ctx); err == nil {
				version = v
			}
		}
		fmt.Printf("%-10s %-4s %-15s %-12s engine %s\n", h.Name, state, h.IPv4, h.IPv6, version)
	}
	return nil
}

func onHost(name string, f func(*lab.Host) error) error {
	l, err := lab.Open("")
	if err != nil {
		return err
	}
	h := l.Host(name)
	if h == nil {
		return fmt.Errorf("there is no host %s", name)
	}
	return f(h)
}

// enter runs a command in a host on the caller's terminal.
func enter(host string, args ...string) error {
	return onHost(host, func(h *lab.Host) error {
		cmd, err := h.Command(context.Background(), args...)
		if err != nil {
			return err
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		// In the foreground of the terminal, not in a group of its own.
		cmd.SysProcAttr = nil
		return cmd.Run()
	})
}

func clean(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("clean", flag.ContinueOnError)
	force := flags.Bool("force", false, "remove the labs of running tests too")
	cache := flags.Bool("cache", false, "remove roots and images too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := lab.Clean(ctx, *force); err != nil {
		return err
	}
	if *cache {
		return lab.RemoveCache()
	}
	return nil
}

func roots(ctx context.Context) error {
	begin := time.Now()
	if err := lab.BuildRoots(ctx); err != nil {
		return err
	}
	fmt.Printf("all roots are there after %.0f s, in %s\n", time.Since(begin).Seconds(), lab.CacheDir())
	return nil
}
