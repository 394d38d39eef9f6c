//! Events as text frames.

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};

use super::{Feed, KEEP_ALIVE, Over, SEND_TIMEOUT};

/// Sends a feed until either side ends it. What the reader sends is not looked at.
pub async fn websocket(mut socket: WebSocket, mut feed: Feed) {
    let mut silent = false;
    loop {
        tokio::select! {
            events = feed.next() => match events {
                Ok(events) => {
                    for event in events {
                        let Ok(text) = serde_json::to_string(&event) else { return close(socket, Over::Failed).await };
                        if !send(&mut socket, Message::Text(text.into())).await {
                            return;
                        }
                    }
                }
                Err(over) => return close(socket, over).await,
            },
            heard = socket.recv() => match heard {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => silent = false,
            },
            () = tokio::time::sleep(KEEP_ALIVE) => {
                // A ping that went unanswered for a whole interval: nobody is there.
                if silent || !send(&mut socket, Message::Ping(Vec::new().into())).await {
                    return;
                }
                silent = true;
            }
        }
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> bool {
    matches!(tokio::time::timeout(SEND_TIMEOUT, socket.send(message)).await, Ok(Ok(())))
}

async fn close(mut socket: WebSocket, over: Over) {
    let code = match over {
        Over::Stopping => close_code::RESTART,
        Over::Failed => close_code::ERROR,
        Over::Gone | Over::Revoked | Over::Pruned => close_code::POLICY,
    };
    let frame = CloseFrame { code, reason: over.text().into() };
    let _ = send(&mut socket, Message::Close(Some(frame))).await;
}
