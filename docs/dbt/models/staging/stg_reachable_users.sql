-- One row per user and service: what reaches them.
select
    account,
    chat_service_sid,
    identity,
    apn > 0 as has_apple,
    fcm > 0 as has_google,
    apn + fcm + gcm + other as devices,
    last_updated
from {{ source('push_bindings', 'identity_reachability') }}
