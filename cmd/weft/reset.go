package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/config"
)

func resetCommand() *cobra.Command {
	var socket, journalPath string
	var yes, asJSON bool
	cmd := &cobra.Command{
		Use: "reset", Short: "Remove everything that weft made on this host", Args: cobra.NoArgs,
		Long: "reset removes weft's links, rules and records from this host, with or without a running daemon.\n" +
			"Containers on weft's networks lose them at once; the engine's own records of the networks go with `docker network rm`.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return errors.New("this cuts all containers off from weft's networks; say --yes to do it")
			}
			if err := reset(cmd.Context(), socket, journalPath); err != nil {
				return err
			}
			return output(cmd.OutOrStdout(), asJSON, map[string]bool{"reset": true}, printReset)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&socket, "socket", "", "admin socket (found by itself)")
	cmd.Flags().StringVar(&journalPath, "journal", defaultJournal, "journal to use when no daemon runs")
	return cmd
}

// reset asks the daemon; without one it does the work itself.
func reset(ctx context.Context, socket, journalPath string) error {
	c, err := admin.Dial(ctx, socket)
	if err == nil {
		return c.Reset(ctx)
	}
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	h, err := open(ctx, config.Config{Scope: "local"}, serveFlags{journal: journalPath, engine: defaultEngine}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	// A journal that cannot be read is one of the reasons to be here.
	return errors.Join(h.driver.Load(), h.reset(ctx), h.close())
}

func printReset(w io.Writer, _ map[string]bool) {
	fmt.Fprintln(w, "removed everything that weft made on this host")
}
